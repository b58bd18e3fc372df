#pragma once
// SentencePiece's precompiled character map: a double-array trie (Darts) from texts to their
// normal forms.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

class Charsmap {
 public:
  /// blob: the trie's size in bytes (u32), the trie's units (u32 each), then the normal forms, each
  /// ended by a NUL. Every path through the trie is checked to stay inside: Error(65) naming
  /// `where`.
  Charsmap(std::string_view blob, const std::string& where);

  /// The normal form of the shortest rule that `text` begins with (the one `tokenizers` takes).
  std::optional<std::string_view> shortest(std::string_view text) const;

 private:
  void check(const std::string& where) const;

  std::vector<std::uint32_t> units_;
  std::string forms_;
};

}  // namespace strata
