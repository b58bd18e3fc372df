#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "text/tokenizer_backend.hpp"

namespace strata {

/// The pipeline that a tokenizer.json describes, as Hugging Face's `tokenizers` runs it: added
/// tokens are cut out, the rest is normalized, cut into words, and each word into tokens.
/// Truncation and padding of the file are left out: they are the caller's. Error(65) naming `where`
/// for what is unsound or not supported.
std::unique_ptr<TokenizerBackend> make_json_tokenizer(const nlohmann::json& document,
                                                      const std::string& where);

}  // namespace strata
