#include "text/batch_order.hpp"

#include <map>

namespace strata {

std::int64_t end_of_batch(std::span<const std::int64_t> offsets, std::int64_t first,
                          std::int64_t tokens) {
  const auto count = static_cast<std::int64_t>(offsets.size()) - 1;
  std::int64_t last = first + 1;
  while (last < count && offsets[last + 1] - offsets[first] <= tokens) ++last;
  return last;
}

std::vector<std::int64_t> batch_order(std::span<const std::int64_t> lengths, std::int64_t tokens) {
  std::multimap<std::int64_t, std::int64_t> left;  // caption by length
  for (std::size_t i = 0; i < lengths.size(); ++i)
    left.emplace(lengths[i], static_cast<std::int64_t>(i));
  std::vector<std::int64_t> order;
  order.reserve(lengths.size());
  for (std::int64_t room = -1; !left.empty();) {
    auto longest = left.upper_bound(room);
    if (longest == left.begin()) {  // none fits: another batch, whose first may be longer
      room = tokens;
      longest = left.end();
    }
    --longest;
    room -= longest->first;
    order.push_back(longest->second);
    left.erase(longest);
  }
  return order;
}

}  // namespace strata
