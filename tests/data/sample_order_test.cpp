#include "data/sample_order.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace strata {
namespace {

TEST(SampleOrder, EveryEpochIsABijection) {
  for (std::int64_t count : {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097, 65537}) {
    const SampleOrder order(count, 17);
    for (std::uint64_t epoch : {0, 1, 5}) {
      std::vector<int> seen(static_cast<std::size_t>(count));
      for (std::int64_t i = 0; i < count; ++i) {
        const auto at = order.at(epoch * std::uint64_t(count) + std::uint64_t(i));
        EXPECT_EQ(at.epoch, epoch);
        ++seen.at(static_cast<std::size_t>(at.sample_index));
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), count);
    }
  }
}

TEST(SampleOrder, EpochsAndSeedsDiffer) {
  constexpr std::int64_t count = 5000;
  const SampleOrder a(count, 17), b(count, 18);
  std::int64_t same_epoch = 0, same_seed = 0, fixed = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    same_epoch += a.permute(i, 0) == a.permute(i, 1);
    same_seed += a.permute(i, 0) == b.permute(i, 0);
    fixed += a.permute(i, 0) == i;
  }
  // Coincidences of random permutations are Poisson with mean 1.
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(same_seed, 10);
  EXPECT_LT(fixed, 10);
}

TEST(SampleOrder, NeighboursAreIndependent) {
  // Correlation of consecutive positions: standard error 1 / sqrt(n).
  constexpr std::int64_t count = 100003;
  const SampleOrder order(count, 3);
  double sum = 0;
  for (std::int64_t i = 0; i + 1 < count; ++i) {
    const double x = (order.permute(i, 2) + 0.5) / count - 0.5,
                 y = (order.permute(i + 1, 2) + 0.5) / count - 0.5;
    sum += x * y * 12;
  }
  EXPECT_LT(std::abs(sum / count), 5 / std::sqrt(double(count)));
}

TEST(SampleOrder, IsTheSameEverywhere) {
  // Fixed values: a change of the order would silently break every resumed run.
  const SampleOrder order(1000, 17);
  std::vector<std::int64_t> first;
  for (std::uint64_t i = 0; i < 8; ++i) first.push_back(order.at(i).sample_index);
  EXPECT_EQ(first, (std::vector<std::int64_t>{2, 487, 706, 403, 519, 998, 231, 167}));
}

}  // namespace
}  // namespace strata
