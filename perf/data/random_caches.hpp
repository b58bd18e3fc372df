#pragma once
// Caches of random values in any size, as benchmarks want them.

#include <algorithm>
#include <string>
#include <vector>

#include "core/file.hpp"
#include "core/rng.hpp"
#include "data/cache_writer.hpp"

namespace strata {

struct RandomCaches {
  std::int64_t samples = 64;
  std::int64_t dim = 4096;                   // of a token
  std::int64_t shortest = 24, longest = 24;  // tokens of a caption, spread evenly
  std::int64_t latent_size = 32;             // (4, size, size) f32

  /// DIR/latents and DIR/text (bf16). What is there already must be the same.
  void write(const std::string& dir) const;
  std::int64_t tokens(std::int64_t sample) const {
    const PhiloxCounter at{static_cast<std::uint64_t>(sample), 0, Purpose::generate};
    const double u = uniform01(random_block({1}, at, 0)[0]);
    return std::min(longest, shortest + static_cast<std::int64_t>(u * (longest - shortest + 1)));
  }

 private:
  CachePlan plan(bool text) const;
  void write_one(const std::string& dir, bool text) const;
};

inline CachePlan RandomCaches::plan(bool text) const {
  CachePlan plan;
  CacheManifest& m = plan.manifest;
  m.count = samples;
  m.model = "random";
  m.weights_sha256 = sha256_hex("random weights");
  m.index_sha256 = sha256_hex("random index");
  if (text) {
    m.kind = CacheKind::text;
    m.dtype = CacheDType::bfloat16;
    m.dim = dim;
    m.shape = {dim};
    m.strategy = "last";
    m.max_tokens = longest;
    m.attention = "causal";
    m.tokenizer_sha256 = sha256_hex("random tokenizer");
  } else {
    m.kind = CacheKind::latent;
    m.dtype = CacheDType::float32;
    m.dim = 4;
    m.shape = {4, latent_size, latent_size};
    m.latent_kind = "sample";
    m.latent_scaled = true;
  }
  const std::int64_t row = text ? longest * dim * 2 : 4 * latent_size * latent_size * 4;
  plan.rows_per_shard = default_rows_per_shard(samples, row);
  return plan;
}

inline void RandomCaches::write_one(const std::string& dir, bool text) const {
  CacheBuilder builder(dir, plan(text));
  if (builder.prepare() == CacheBuilder::Status::finished) return;
  // One run of values, of which each row takes a stretch that begins elsewhere.
  const std::int64_t row = text ? longest * dim : 4 * latent_size * latent_size;
  constexpr std::int64_t beginnings = 4099;
  std::vector<float> values(static_cast<std::size_t>(row + beginnings));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = 2 * uniform01(random_block({2}, {i, 0, Purpose::noise}, 0)[0]) - 1;
  for (const std::int64_t shard : builder.missing_shards()) {
    std::vector<std::int64_t> ids, lengths;
    for (std::int64_t i = 0; i < builder.plan().rows_in(shard); ++i) {
      ids.push_back(builder.plan().first_row(shard) + i);
      if (text) lengths.push_back(tokens(ids.back()));
    }
    ShardWriter writer = builder.begin_shard(shard, ids, lengths);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      float* from = values.data() + ids[i] * 61 % beginnings;
      writer.append(text ? view_of(from, {lengths[i], dim})
                         : view_of(from, {4, latent_size, latent_size}));
    }
    writer.finish();
  }
  builder.publish();
}

inline void RandomCaches::write(const std::string& dir) const {
  write_one(dir + "/latents", false);
  write_one(dir + "/text", true);
}

}  // namespace strata
