#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/cache_reader.hpp"

namespace strata {

namespace {

/// Sums over finite values.
struct Sums {
  double sum = 0, squares = 0;
  double min = std::numeric_limits<double>::infinity(), max = -min;
  std::int64_t finite = 0, nan = 0, infinite = 0;

  void add(float value) {
    if (std::isnan(value)) {
      ++nan;
    } else if (std::isinf(value)) {
      ++infinite;
    } else {
      ++finite;
      sum += value;
      squares += static_cast<double>(value) * value;
      min = std::min<double>(min, value);
      max = std::max<double>(max, value);
    }
  }
};

}  // namespace

CacheStats cache_stats(const CacheReader& cache) {
  const CacheManifest& manifest = cache.manifest();
  CacheStats stats;
  stats.count = manifest.count;
  stats.tokens = manifest.tokens;
  stats.storage_error = manifest.storage_error();
  for (const ShardRecord& shard : manifest.shards) stats.bytes += shard.bytes;
  Sums sums, deviations;
  std::vector<float> values, pooled(static_cast<std::size_t>(cache.pooled_dim()));
  for (std::int64_t row = 0; row < cache.rows(); ++row) {
    const std::int64_t tokens = cache.tokens(row);
    values.resize(static_cast<std::size_t>(tokens * manifest.elements()));
    cache.read_row(row, values.data(), pooled.data());
    const std::size_t means = manifest.holds_moments() ? values.size() / 2 : values.size();
    for (std::size_t i = 0; i < values.size(); ++i) (i < means ? sums : deviations).add(values[i]);
    for (float value : pooled) sums.add(value);
    if (manifest.kind != CacheKind::text) continue;
    const auto bin = static_cast<std::size_t>(tokens);
    if (bin >= stats.token_histogram.size()) stats.token_histogram.resize(bin + 1);
    ++stats.token_histogram[bin];
    stats.min_tokens = row == 0 ? tokens : std::min(stats.min_tokens, tokens);
    stats.max_tokens = std::max(stats.max_tokens, tokens);
  }
  stats.nan = sums.nan + deviations.nan;
  stats.infinite = sums.infinite + deviations.infinite;
  if (deviations.finite > 0)
    stats.deviations = {deviations.sum / static_cast<double>(deviations.finite), deviations.min,
                        deviations.max};
  if (sums.finite == 0) return stats;
  const auto n = static_cast<double>(sums.finite);
  stats.mean = sums.sum / n;
  stats.std = std::sqrt(std::max(sums.squares / n - stats.mean * stats.mean, 0.0));
  stats.min = sums.min;
  stats.max = sums.max;
  return stats;
}

std::string CacheStats::to_json() const {
  nlohmann::ordered_json json{{"count", count},
                              {"tokens", tokens},
                              {"bytes", bytes},
                              {"nan", nan},
                              {"inf", infinite},
                              {"mean", mean},
                              {"std", std},
                              {"min", min},
                              {"max", max},
                              {"min_tokens", min_tokens},
                              {"max_tokens", max_tokens}};
  if (storage_error > 0) json["storage_error"] = storage_error;
  if (deviations)
    json["deviations"] = {
        {"mean", deviations->mean}, {"min", deviations->min}, {"max", deviations->max}};
  json["token_histogram"] = nlohmann::ordered_json::object();
  for (std::size_t tokens = 0; tokens < token_histogram.size(); ++tokens)
    if (token_histogram[tokens] > 0)
      json["token_histogram"][std::to_string(tokens)] = token_histogram[tokens];
  return json.dump();
}

}  // namespace strata
