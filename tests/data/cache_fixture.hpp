#pragma once
// Small caches whose every value follows from the sample's id.

#include <string>
#include <vector>

#include "data/cache_writer.hpp"

namespace strata {

/// Sample i has i % 4 tokens; token t, element e of it is value(i, t * dim + e).
inline float fixture_value(std::int64_t sample, std::int64_t element) {
  return static_cast<float>((sample * 31 + element * 7) % 257 - 128) / 64.0f;
}
inline std::int64_t fixture_tokens(std::int64_t sample) {
  return sample % 4;
}

inline CachePlan text_plan(std::int64_t rows, CacheDType dtype, std::int64_t pooled_dim = 3) {
  CachePlan plan;
  plan.manifest.kind = CacheKind::text;
  plan.manifest.count = rows;
  plan.manifest.dim = 5;
  plan.manifest.shape = {5};
  plan.manifest.dtype = dtype;
  plan.manifest.strategy = "last";
  plan.manifest.max_tokens = 77;
  plan.manifest.attention = "causal";
  plan.manifest.model = "tiny";
  plan.manifest.index_sha256 = std::string(64, 'a');
  plan.pooled_dim = pooled_dim;
  plan.rows_per_shard = 7;
  plan.details = "seed=17";
  return plan;
}

inline CachePlan latent_plan(std::int64_t rows, CacheDType dtype) {
  CachePlan plan;
  plan.manifest.kind = CacheKind::latent;
  plan.manifest.count = rows;
  plan.manifest.dim = 4;
  plan.manifest.shape = {4, 2, 3};
  plan.manifest.dtype = dtype;
  plan.manifest.model = "tiny-vae";
  plan.manifest.index_sha256 = std::string(64, 'a');
  plan.manifest.latent_kind = "sample";
  plan.manifest.latent_scaled = true;
  plan.rows_per_shard = 8;
  plan.details = "seed=17";
  return plan;
}

/// As latent_plan's in f32, with a mean and a deviation of each of the 4 channels.
inline CachePlan moments_plan(std::int64_t rows) {
  CachePlan plan = latent_plan(rows, CacheDType::float32);
  plan.manifest.latent_kind = "moments";
  plan.manifest.dim = 8;
  plan.manifest.shape = {8, 2, 3};
  return plan;
}

/// Writes rows of a shard; stops after `rows` of them (-1: all, and finishes it). backwards: the
/// last row first.
inline void write_shard(const CacheBuilder& builder, std::int64_t shard, std::int64_t rows = -1,
                        bool backwards = false) {
  const CachePlan& plan = builder.plan();
  const bool is_text = plan.manifest.kind == CacheKind::text;
  std::vector<std::int64_t> samples, tokens;
  for (std::int64_t i = 0; i < plan.rows_in(shard); ++i) {
    samples.push_back(plan.first_row(shard) + i);
    if (is_text) tokens.push_back(fixture_tokens(samples.back()));
  }
  ShardWriter writer = builder.begin_shard(shard, samples, tokens);
  for (std::size_t turn = 0; turn < samples.size(); ++turn) {
    if (static_cast<std::int64_t>(turn) == rows) return;
    const std::size_t i = backwards ? samples.size() - 1 - turn : turn;
    const std::int64_t count = (is_text ? tokens[i] : 1) * plan.manifest.elements();
    std::vector<float> values(static_cast<std::size_t>(count) + 1), pooled(8);
    for (std::int64_t e = 0; e < count; ++e) values[e] = fixture_value(samples[i], e);
    for (std::size_t e = 0; e < pooled.size(); ++e)
      pooled[e] = fixture_value(samples[i] + 1000, std::int64_t(e));
    const Tensor of_row = view_of(values.data(), {count});
    const Tensor state = plan.pooled_dim > 0 ? view_of(pooled.data(), {plan.pooled_dim}) : Tensor{};
    if (backwards)
      writer.put(static_cast<std::int64_t>(i), of_row, state);
    else
      writer.append(of_row, state);
  }
  writer.finish();
}

inline void write_cache(const std::string& dir, const CachePlan& plan) {
  CacheBuilder builder(dir, plan);
  if (builder.prepare() == CacheBuilder::Status::finished) return;
  for (std::int64_t shard : builder.missing_shards()) write_shard(builder, shard);
  builder.publish();
}

}  // namespace strata
