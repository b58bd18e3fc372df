#pragma once

#include <string>
#include <string_view>

namespace strata {

/// Checks a SentencePiece model (a protocol buffer, wire format) before libsentencepiece sees it,
/// which trusts it in places: a unigram or BPE model; pieces that are distinct, valid UTF-8 without
/// NUL, with finite scores and known types; a character map whose trie stays inside; no field twice
/// that may stand once. Error(65) naming `path` and what is wrong.
void check_sentence_piece_file(std::string_view bytes, const std::string& path);

}  // namespace strata
