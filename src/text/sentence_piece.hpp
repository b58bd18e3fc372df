#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "text/tokenizer_backend.hpp"

namespace strata {

/// A SentencePiece `.model` file (Kudo and Richardson 2018), unigram or BPE, run by
/// libsentencepiece after every part that the library trusts has been checked. config:
/// tokenizer_config.json; around the text stands what its class would put there where add_bos_token
/// and add_eos_token are not said: T5 an end, the others a begin (without a class: spiece.model is
/// T5's). Error(65) naming the path.
std::unique_ptr<TokenizerBackend> make_sentence_piece(const std::string& bytes,
                                                      const nlohmann::json& config,
                                                      const std::string& path);

}  // namespace strata
