#include "evaluate/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace strata {
namespace {

TEST(Quantile, InterpolatesLinearly) {
  const std::vector<double> values{1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(quantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(quantile(values, 1), 8);
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 3);
  EXPECT_DOUBLE_EQ(quantile(values, 0.25), 1.75);
}

TEST(Bootstrap, OneValueHasNoWidth) {
  const auto interval = bootstrap_mean(std::vector<double>{0.3});
  EXPECT_EQ(interval.low, 0.3);
  EXPECT_EQ(interval.high, 0.3);
  EXPECT_EQ(interval.count, 1);
}

// Two values 0 and 1: the resampled mean is 0, 1/2, 1 with 1/4, 1/2, 1/4, so the 2.5 % points are
// the extremes.
TEST(Bootstrap, TwoValuesGiveTheirRange) {
  const auto interval = bootstrap_mean(std::vector<double>{0, 1});
  EXPECT_EQ(interval.mean, 0.5);
  EXPECT_EQ(interval.low, 0);
  EXPECT_EQ(interval.high, 1);
}

// n draws of 0 and 1 in equal parts: the resampled sum is binomial(n, 1/2), whose 2.5 % points are
// known (scipy.stats.binom.ppf(0.025, 400, 0.5) = 180, 0.975: 220). Monte-Carlo error of a quantile
// of 10,000: sqrt(q (1 - q) / 10000) / density = 0.0016 / 0.0058 -> 0.28 of a unit of the sum; 5
// sigma allowed.
TEST(Bootstrap, BinomialQuantiles) {
  std::vector<double> values(400);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 2);
  const auto interval = bootstrap_mean(values);
  EXPECT_EQ(interval.mean, 0.5);
  EXPECT_NEAR(interval.low * 400, 180, 1.5);
  EXPECT_NEAR(interval.high * 400, 220, 1.5);
}

TEST(Bootstrap, PairsCancelWhatTheyShare) {
  std::vector<double> a(50), b(50);
  for (std::size_t i = 0; i < a.size(); ++i) {
    b[i] = std::sin(static_cast<double>(i));
    a[i] = b[i] + 0.25;
  }
  const auto paired = bootstrap_difference(a, b);
  EXPECT_NEAR(paired.mean, 0.25, 1e-12);
  EXPECT_NEAR(paired.low, 0.25, 1e-12);
  EXPECT_NEAR(paired.high, 0.25, 1e-12);
}

TEST(Bootstrap, IsReproducibleAndFollowsTheSeed) {
  const std::vector<double> values{0.1, 0.9, 0.35, 0.6, 0.2, 0.77};
  const auto first = bootstrap_mean(values), again = bootstrap_mean(values);
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
  const auto other = bootstrap_mean(values, {.resamples = 101, .seed = 18});
  EXPECT_NE(other.low, first.low);
}

}  // namespace
}  // namespace strata
