#include "evaluate/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace strata {

namespace {

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double resampled_mean(std::span<const double> values, PhiloxKey key, std::uint32_t resample) {
  const auto n = static_cast<std::uint32_t>(values.size());
  const PhiloxCounter at{resample, 0, Purpose::bootstrap};
  double sum = 0;
  std::array<std::uint32_t, 4> bits{};
  for (std::uint32_t i = 0; i < n; ++i) {
    if (i % 4 == 0) bits = random_block(key, at, i / 4);
    sum += values[uniform_below(bits[i % 4], n)];
  }
  return sum / n;
}

}  // namespace

double quantile(std::span<const double> sorted, double q) {
  STRATA_CHECK(!sorted.empty() && q >= 0 && q <= 1, "quantile {} of {} values", q, sorted.size());
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(at));
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - std::floor(at)) * (sorted[above] - sorted[below]);
}

Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options) {
  STRATA_CHECK(!values.empty() && values.size() < (std::size_t{1} << 31) && options.resamples > 0);
  std::vector<double> means(static_cast<std::size_t>(options.resamples));
  for (std::size_t r = 0; r < means.size(); ++r)
    means[r] = resampled_mean(values, {options.seed}, static_cast<std::uint32_t>(r));
  std::sort(means.begin(), means.end());
  return {mean_of(values), quantile(means, 0.025), quantile(means, 0.975),
          static_cast<std::int64_t>(values.size())};
}

Interval bootstrap_difference(std::span<const double> a, std::span<const double> b,
                              const BootstrapOptions& options) {
  STRATA_CHECK(a.size() == b.size(), "{} and {} values are no pairs", a.size(), b.size());
  std::vector<double> differences(a.size());
  std::transform(a.begin(), a.end(), b.begin(), differences.begin(), std::minus<>());
  return bootstrap_mean(differences, options);
}

}  // namespace strata
