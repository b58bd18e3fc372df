#include "dist/sharding.hpp"

#include <algorithm>

namespace strata {

namespace {

constexpr int usual_sections = 64;
constexpr std::int64_t alignment = 16;  // elements: a part of bf16 begins on 32 bytes

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Sharding::Sharding(const ParameterTable& table, std::int64_t bucket_elements, int rank, int size)
    : bucket_of_(table.size(), 0), sections_(usual_sections % size == 0 ? usual_sections : size) {
  STRATA_CHECK(bucket_elements > 0 && 0 <= rank && rank < size);
  const auto close = [&](Bucket& bucket) {
    const std::int64_t length = bucket.flat.size();
    bucket.section = divide_up(divide_up(length, sections_), alignment) * alignment;
    bucket.part = bucket.section * (sections_ / size);
    const IndexRange part = Communicator::part_of(length, bucket.part, rank);
    bucket.mine = {{bucket.flat.begin + part.begin, bucket.flat.begin + part.end}, local_numel_};
    local_numel_ += part.size();
    largest_bucket_ = std::max(largest_bucket_, length);
  };
  for (const ParamId id : table.completion_order()) {
    const Parameter& p = table[id];
    if (buckets_.empty() || buckets_.back().flat.size() >= bucket_elements) {
      if (!buckets_.empty()) close(buckets_.back());
      buckets_.push_back({{p.offset, p.offset}});
    }
    Bucket& bucket = buckets_.back();
    STRATA_CHECK(p.offset == bucket.flat.end, "{} is not next in the flat buffer", p.name);
    bucket.flat.end += p.numel();
    ++bucket.parameters;
    bucket_of_[id] = static_cast<int>(buckets_.size()) - 1;
  }
  STRATA_CHECK(!buckets_.empty(), "a model without parameters");
  close(buckets_.back());
}

std::vector<ShardPiece> Sharding::pieces() const {
  std::vector<ShardPiece> pieces;
  for (const Bucket& bucket : buckets_)
    if (bucket.mine.flat.size() > 0) pieces.push_back(bucket.mine);
  return pieces;
}

}  // namespace strata
