#include "evaluate/lines.hpp"

#include "core/error.hpp"

namespace strata {

namespace {

// Length of the UTF-8 sequence at the start of text, 0 where there is none (RFC 3629, table of
// well-formed byte sequences).
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return 0;
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

void check_utf8(std::string_view text, const std::string& where) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = sequence_length(text.substr(i));
    if (length == 0) fail(Exit::data, "{}: invalid UTF-8 at offset {}", where, i);
    i += length;
  }
}

void for_each_line(std::string_view content, const std::string& path, std::size_t max_bytes,
                   const std::function<void(std::int64_t, std::string_view)>& take) {
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    std::size_t end = content.find('\n', begin);
    if (end == std::string_view::npos) end = content.size();
    std::string_view line = content.substr(begin, end - begin);
    ++number;
    begin = end + 1;
    if (line.size() > max_bytes)
      fail(Exit::data, "{}:{}: a line of {} bytes, at most {}", path, number, line.size(),
           max_bytes);
    if (line.ends_with('\r')) line.remove_suffix(1);
    check_utf8(line, path + ":" + std::to_string(number));
    take(number, line);
  }
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 80)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  if (text.size() > 80) out += "...";
  return out;
}

}  // namespace strata
