#include "dist/sharding.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace strata {
namespace {

ParameterTable table_of(std::initializer_list<std::int64_t> sizes) {
  ParameterTable table;
  std::vector<ParamId> order;
  for (const std::int64_t n : sizes)
    order.push_back(table.add(fmt::format("p{}", table.size()), {n}));
  std::reverse(order.begin(), order.end());  // completion is not definition
  table.arrange(order);
  return table;
}

TEST(Sharding, BucketsAndPartsTileTheFlatBuffer) {
  const ParameterTable table = table_of({7, 1000, 3, 129, 64, 5000, 1, 1, 333});
  for (const std::int64_t bucket : {1, 100, 1000, 1'000'000}) {
    for (const int ranks : {1, 2, 3, 4, 5, 8, 64, 100}) {
      std::vector<IndexRange> ranges;
      std::int64_t total = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Sharding sharding(table, bucket, rank, ranks);
        std::int64_t local = 0;
        for (const ShardPiece& piece : sharding.pieces()) {
          EXPECT_EQ(piece.local, local);
          local += piece.flat.size();
          ranges.push_back(piece.flat);
        }
        EXPECT_EQ(local, sharding.local_numel());
        total += local;
      }
      EXPECT_EQ(total, table.numel());
      std::sort(ranges.begin(), ranges.end(),
                [](const IndexRange& a, const IndexRange& b) { return a.begin < b.begin; });
      std::int64_t end = 0;
      for (const IndexRange& range : ranges) {
        ASSERT_EQ(range.begin, end);
        end = range.end;
      }
      EXPECT_EQ(end, table.numel());
    }
  }
}

TEST(Sharding, BucketsAreAtLeastAsLargeAsAsked) {
  const ParameterTable table = table_of({7, 1000, 3, 129, 64, 5000, 1, 1, 333});
  const Sharding sharding(table, 500, 0, 2);
  const auto& buckets = sharding.buckets();
  for (std::size_t b = 0; b + 1 < buckets.size(); ++b) EXPECT_GE(buckets[b].flat.size(), 500);
  int parameters = 0;
  for (const Bucket& bucket : buckets) parameters += bucket.parameters;
  EXPECT_EQ(parameters, table.size());
  for (int id = 0; id < table.size(); ++id) {
    const IndexRange& range = buckets[sharding.bucket_of(id)].flat;
    EXPECT_GE(table[id].offset, range.begin);
    EXPECT_LE(table[id].offset + table[id].numel(), range.end);
  }
}

TEST(Sharding, EveryRankHoldsItsFairShare) {
  const ParameterTable table = table_of({1'000'000, 300'000, 17, 2'000'000});
  for (const int ranks : {2, 4, 8, 32}) {
    const Sharding first(table, 500'000, 0, ranks);
    const auto slack = static_cast<std::int64_t>(first.buckets().size()) * 16 * 64;
    EXPECT_LE(first.local_numel(), table.numel() / ranks + slack);
  }
}

TEST(Sharding, SectionsDoNotDependOnTheRanks) {
  const ParameterTable table = table_of({70'000, 1000, 3});
  const Sharding one(table, 1000, 0, 1), four(table, 1000, 3, 4);
  ASSERT_EQ(one.buckets().size(), four.buckets().size());
  for (std::size_t b = 0; b < one.buckets().size(); ++b) {
    EXPECT_EQ(one.buckets()[b].section, four.buckets()[b].section);
    EXPECT_EQ(four.buckets()[b].part % four.buckets()[b].section, 0);
  }
}

}  // namespace
}  // namespace strata
