#pragma once
// Means with 95 % intervals over prompts. The bootstrap draws from Philox, so a report is the same
// wherever and whenever it is made.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace strata {

/// A mean and its 95 % interval over `count` independent prompts.
struct Interval {
  double mean = 0, low = 0, high = 0;
  std::int64_t count = 0;
};

struct BootstrapOptions {
  int resamples = 10000;
  std::uint64_t seed = 17;
};

/// Percentile bootstrap of the mean (Efron 1979): resamples prompts with replacement. One value
/// gives an interval of zero width; no value is a broken invariant.
Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options = {});

/// The same of a - b, pairs resampled together; equal lengths.
Interval bootstrap_difference(std::span<const double> a, std::span<const double> b,
                              const BootstrapOptions& options = {});

/// Sorted values' linear-interpolated quantile, q in [0, 1] (Hyndman and Fan's type 7).
double quantile(std::span<const double> sorted, double q);

}  // namespace strata
