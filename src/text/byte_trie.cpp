#include "text/byte_trie.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace strata {

namespace {
constexpr std::size_t max_bytes = std::size_t{16} << 20;
}

ByteTrie::ByteTrie(std::vector<Entry> entries, const std::string& where) {
  std::size_t bytes = 0;
  for (const Entry& entry : entries) bytes += entry.first.size();
  if (bytes > max_bytes)
    fail(Exit::data, "{}: its tokens have {} bytes in all, more than {}", where, bytes, max_bytes);
  const auto text_less = [](const Entry& a, const Entry& b) { return a.first < b.first; };
  const auto same_text = [](const Entry& a, const Entry& b) { return a.first == b.first; };
  std::stable_sort(entries.begin(), entries.end(), text_less);
  entries.erase(std::unique(entries.begin(), entries.end(), same_text), entries.end());

  struct Range {  // the entries below a node
    std::uint32_t begin, end, depth;
  };
  std::vector<Range> ranges{{0, static_cast<std::uint32_t>(entries.size()), 0}};
  labels_.push_back(0);
  for (std::size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    nodes_.push_back({static_cast<std::uint32_t>(ranges.size()), -1});
    if (begin < end && entries[begin].first.size() == depth)
      nodes_.back().number = entries[begin++].second;
    while (begin < end) {
      const char label = entries[begin].first[depth];
      std::uint32_t next = begin + 1;
      while (next < end && entries[next].first[depth] == label) ++next;
      if (node == 0)
        root_[static_cast<unsigned char>(label)] = static_cast<std::uint32_t>(ranges.size());
      labels_.push_back(static_cast<unsigned char>(label));
      ranges.push_back({begin, next, depth + 1});
      begin = next;
    }
  }
  nodes_.push_back({static_cast<std::uint32_t>(ranges.size()), -1});
}

std::uint32_t ByteTrie::child(std::uint32_t node, unsigned char byte) const {
  if (node == 0) return root_[byte];
  const auto begin = labels_.begin() + nodes_[node].first_child;
  const auto end = labels_.begin() + nodes_[node + 1].first_child;
  const auto found = std::lower_bound(begin, end, byte);
  if (found == end || *found != byte) return 0;
  return static_cast<std::uint32_t>(found - labels_.begin());
}

}  // namespace strata
