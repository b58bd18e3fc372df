#pragma once
// A run small enough for a test: caches of random latents and embeddings, a two-level U-Net.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/file.hpp"
#include "core/rng.hpp"
#include "data/cache_writer.hpp"
#include "model/unet_config.hpp"
#include "train/config.hpp"
#include "train/run_folder.hpp"

namespace strata {

inline constexpr std::int64_t tiny_text_dim = 12, tiny_pooled_dim = 6, tiny_size = 8;

/// Values in [-scale, scale), a pure function of (sample, index).
inline std::vector<float> tiny_values(std::int64_t sample, std::int64_t count, Purpose purpose,
                                      float scale) {
  std::vector<float> values(count);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto word = random_block({7}, {static_cast<std::uint64_t>(sample), 0, purpose},
                                   static_cast<std::uint32_t>(i))[0];
    values[i] = scale * (2 * uniform01(word) - 1);
  }
  return values;
}

/// latent_kind: sample or moments. The i-th sample has id 3 i + 1.
inline void write_tiny_cache(const std::string& dir, CacheKind kind, std::int64_t count,
                             const std::string& latent_kind = "sample") {
  CachePlan plan;
  auto& m = plan.manifest;
  m.kind = kind;
  m.count = count;
  m.dtype = CacheDType::float32;
  m.model = "tiny";
  m.weights_sha256 = sha256_hex("tiny weights");
  m.index_sha256 = sha256_hex("tiny index");
  const bool text = kind == CacheKind::text;
  if (text) {
    m.dim = tiny_text_dim;
    m.shape = {tiny_text_dim};
    m.strategy = "last";
    m.max_tokens = 77;
    m.attention = "causal";
    m.tokenizer_sha256 = sha256_hex("tiny tokenizer");
    plan.pooled_dim = tiny_pooled_dim;
  } else {
    m.dim = latent_kind == "moments" ? 8 : 4;
    m.shape = {m.dim, tiny_size, tiny_size};
    m.latent_kind = latent_kind;
    m.latent_scaled = true;
  }
  plan.rows_per_shard = count;
  CacheBuilder builder(dir, plan);
  builder.prepare();
  std::vector<std::int64_t> samples, tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    samples.push_back(3 * i +
                      1);  // ids are rows of an index: not contiguous where some were skipped
    tokens.push_back(1 + i % 5);
  }
  auto writer = text ? builder.begin_shard(0, samples, tokens) : builder.begin_shard(0, samples);
  for (std::int64_t i = 0; i < count; ++i) {
    if (text) {
      const auto values = tiny_values(i, tokens[i] * tiny_text_dim, Purpose::generate, 1);
      const auto pooled = tiny_values(i, tiny_pooled_dim, Purpose::bootstrap, 1);
      writer.append(view_of(values.data(), {tokens[i], tiny_text_dim}),
                    view_of(pooled.data(), {tiny_pooled_dim}));
    } else {
      const auto values = tiny_values(i, m.elements(), Purpose::posterior, 1.7f);
      writer.append(view_of(values.data(), {m.dim, tiny_size, tiny_size}));
    }
  }
  writer.finish();
  builder.publish();
}

inline UNetConfig tiny_unet() {
  UNetConfig c;
  c.sample_height = c.sample_width = tiny_size;
  c.block_out_channels = {16, 32};
  c.down_attention = c.up_attention = {true, false};
  c.layers_per_block = {1, 1};
  c.transformer_layers = {{1}, {1}};
  c.heads = {2, 4};
  c.norm_num_groups = 4;
  c.cross_attention_dim = 16;
  return c;
}

/// Caches and U-Net config below `dir`.
inline void write_tiny_inputs(const std::string& dir, std::int64_t samples) {
  write_tiny_cache(dir + "/latents", CacheKind::latent, samples);
  write_tiny_cache(dir + "/moments", CacheKind::latent, samples, "moments");
  write_tiny_cache(dir + "/text", CacheKind::text, samples);
  write_file_atomically(dir + "/config.json", tiny_unet().to_json());
}

inline TrainConfig tiny_config(const std::string& dir, const std::string& run,
                               std::vector<std::string> overrides = {}) {
  std::vector<std::string> set{"data.latents=" + dir + "/latents",
                               "data.text=" + dir + "/text",
                               "model.unet=" + dir + "/config.json",
                               "output.dir=" + dir + "/" + run,
                               "train.precision=fp32",
                               "train.batch=8",
                               "train.microbatch=2",
                               "train.steps=20",
                               "train.warmup=4",
                               "train.lr=1e-3",
                               "train.log_every=1",
                               "train.threads=1",
                               "train.checkpoint_every=0",
                               "train.bucket_mb=0.05",
                               "train.caption_drop=0.25"};
  set.insert(set.end(), overrides.begin(), overrides.end());
  return parse_train_config("", "test", set);
}

/// The last record of every step, by step.
inline std::map<std::int64_t, nlohmann::json> metrics_of(const TrainConfig& config) {
  std::map<std::int64_t, nlohmann::json> records;
  std::ifstream file(RunFolder{config.output.dir}.metrics());
  for (std::string line; std::getline(file, line);) {
    auto record = nlohmann::json::parse(line);
    records[record["step"]] = record;
  }
  return records;
}

}  // namespace strata
