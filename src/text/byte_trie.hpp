#pragma once
// A set of byte strings, each with a number, that is searched by prefix.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata {

class ByteTrie {
 public:
  using Entry = std::pair<std::string_view, std::int32_t>;

  ByteTrie() : ByteTrie({}, {}) {}
  /// Of entries with the same text the first holds. Texts that sum up to more than 16 MiB are
  /// Error(65) naming `where`.
  ByteTrie(std::vector<Entry> entries, const std::string& where);

  /// Calls take(bytes, number) for every entry that `text` begins with, shortest first.
  template <class Take>
  void for_each_prefix(std::string_view text, Take&& take) const {
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node == 0) return;
      if (nodes_[node].number >= 0) take(i + 1, nodes_[node].number);
    }
  }

  /// The longest entry that `text` begins with: its bytes and number, {0, -1} when there is none.
  std::pair<std::size_t, std::int32_t> longest_prefix(std::string_view text) const {
    std::pair<std::size_t, std::int32_t> found{0, -1};
    for_each_prefix(text, [&](std::size_t bytes, std::int32_t number) { found = {bytes, number}; });
    return found;
  }

 private:
  struct Node {
    std::uint32_t first_child;  // the children lie side by side up to the next node's first
    std::int32_t number;
  };
  std::uint32_t child(std::uint32_t node, unsigned char byte) const;

  std::vector<Node> nodes_;            // breadth first; one more at the end
  std::vector<unsigned char> labels_;  // of a node: the byte that leads to it
  std::array<std::uint32_t, 256> root_{};
};

}  // namespace strata
