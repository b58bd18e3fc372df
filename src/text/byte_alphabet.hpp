#pragma once
// GPT-2's alphabet (Radford et al. 2019), in which every byte is a visible character.

#include <optional>
#include <string>
#include <string_view>

namespace strata {

/// Each byte as its character.
std::string to_byte_alphabet(std::string_view bytes);
/// The other way; nothing when `text` (UTF-8) has a character that stands for no byte.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace strata
