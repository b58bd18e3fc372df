#include "text/byte_alphabet.hpp"

#include <array>
#include <cstdint>
#include <unordered_map>

#include "text/unicode.hpp"

namespace strata {

namespace {

/// Printable Latin-1 bytes stand for themselves, the others for U+0100 and up in order.
const std::array<std::string, 256>& alphabet() {
  static const auto made = [] {
    std::array<std::string, 256> characters;
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      append_utf8(characters[byte], printable ? byte : next++);
    }
    return characters;
  }();
  return made;
}

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  const auto& characters = alphabet();
  std::string text;
  text.reserve(bytes.size() * 2);
  for (char c : bytes) text += characters[static_cast<unsigned char>(c)];
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  static const auto bytes = [] {
    std::unordered_map<std::string_view, char> made;
    for (int byte = 0; byte < 256; ++byte) made[alphabet()[byte]] = static_cast<char>(byte);
    return made;
  }();
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text[i]);
    const auto it = bytes.find(text.substr(i, length));
    if (it == bytes.end()) return std::nullopt;
    out += it->second;
    i += length;
  }
  return out;
}

}  // namespace strata
