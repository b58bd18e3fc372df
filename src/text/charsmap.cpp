#include "text/charsmap.hpp"

#include <cstring>

#include "core/byte_reader.hpp"
#include "core/error.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

// A unit of Darts-clone: label (8 bits and the sign), has_leaf, and the offset to the children.
bool has_leaf(std::uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
std::uint32_t value(std::uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
std::uint32_t label(std::uint32_t unit) {
  return unit & 0x800000FF;
}
std::uint32_t offset(std::uint32_t unit) {
  return unit >> 10 << ((unit & 1u << 9) >> 6);
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  ByteReader in(blob, where + ": precompiled_charsmap");
  const auto bytes = in.number<std::uint32_t>();
  if (bytes == 0 || bytes % 4 != 0 || bytes >= in.left())
    fail(Exit::data, "{}: precompiled_charsmap of {} bytes is cut off", where, blob.size());
  units_.resize(bytes / 4);
  std::memcpy(units_.data(), in.take(bytes).data(), bytes);
  forms_ = in.take(in.left());
  if (find_invalid_utf8(forms_) != std::string::npos)
    fail(Exit::data, "{}: precompiled_charsmap: its texts are not UTF-8", where);
  check(where);
}

void Charsmap::check(const std::string& where) const {
  std::vector<bool> seen(units_.size());
  std::vector<std::uint32_t> open;
  const auto visit = [&](std::uint32_t base) {
    if ((base | 0xFF) >= units_.size())  // a node's children share the upper bits of its base
      fail(Exit::data, "{}: precompiled_charsmap: its trie leads outside", where);
    if (!seen[base]) open.push_back(base);
    seen[base] = true;
  };
  visit(offset(units_[0]));
  while (!open.empty()) {
    const std::uint32_t base = open.back();
    open.pop_back();
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t at = base ^ byte;
      const std::uint32_t unit = units_[at];
      if (label(unit) != byte) continue;
      const std::uint32_t next = at ^ offset(unit);
      visit(next);
      if (!has_leaf(unit)) continue;
      const std::uint32_t begin = value(units_[next]);
      if (begin >= forms_.size() || (static_cast<unsigned char>(forms_[begin]) & 0xC0) == 0x80)
        fail(Exit::data, "{}: precompiled_charsmap: a rule's text lies outside", where);
    }
  }
}

std::optional<std::string_view> Charsmap::shortest(std::string_view text) const {
  std::uint32_t at = offset(units_[0]);
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    at ^= byte;
    const std::uint32_t unit = units_[at];
    if (label(unit) != byte) break;
    at ^= offset(unit);
    if (has_leaf(unit)) {
      const std::string_view forms = std::string_view(forms_).substr(value(units_[at]));
      return forms.substr(0, forms.find('\0'));
    }
  }
  return std::nullopt;
}

}  // namespace strata
