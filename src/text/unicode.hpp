#pragma once
// UTF-8 and the Unicode operations that tokenizers need.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// Byte offset of the first sequence that is not UTF-8 (overlong forms, surrogates and code points
/// past U+10FFFF included), or npos.
std::size_t find_invalid_utf8(std::string_view text);

/// Bytes of the UTF-8 character that begins with `lead` (valid UTF-8 only).
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The bytes as UTF-8, U+FFFD for each longest piece of a character that is cut off or overlong and
/// for every other stray byte (Unicode Standard 3.9, "maximal subparts").
std::string replace_invalid_utf8(std::string_view bytes);

void append_utf8(std::string& text, std::uint32_t code_point);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// By the tables of Unicode 9.0, as `tokenizers` does: a character that came later is inert.
std::string normalize(std::string_view text, NormalForm form);

/// Each character by its own full lower-case mapping, without regard to its neighbours (so that a
/// final sigma is an ordinary one), as Rust's char::to_lowercase.
std::string lower_case(std::string_view text);

/// The ends of the extended grapheme clusters (UAX 29), in order.
std::vector<std::size_t> grapheme_ends(std::string_view text);

/// Bytes of white space (the Unicode property White_Space) at the text's end, and at its beginning.
std::size_t space_at_end(std::string_view text);
std::size_t space_at_begin(std::string_view text);
/// Without white space at either end.
std::string_view trimmed(std::string_view text);
/// Whether the last (first) character belongs to a word: alphabetic, mark, decimal digit, connector
/// or joiner (UTS 18). False for an empty text.
bool ends_in_word(std::string_view text);
bool begins_with_word(std::string_view text);

}  // namespace strata
