#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace strata {

/// Checks a SentencePiece model (a protocol buffer, wire format) before libsentencepiece sees it,
/// which trusts it in places: a unigram or BPE model; pieces that are distinct, valid UTF-8 without
/// NUL, with finite scores and known types; a character map whose trie stays inside; no field twice
/// that may stand once. Error(65) naming `path` and what is wrong.
void check_sentence_piece_file(std::string_view bytes, const std::string& path);

/// A checked model with a piece for every byte behind its own pieces and with byte fallback, so
/// that libsentencepiece writes the bytes of unknown characters where it would join the characters
/// to one unknown piece, which takes it quadratic time. Neither scores nor segmentation change:
/// byte pieces are in no segmentation. Its self-test is left out. Nothing when the model itself has
/// a piece of a byte's name.
std::optional<std::string> with_byte_pieces(std::string_view bytes, const std::string& path);

}  // namespace strata
