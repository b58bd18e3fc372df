#pragma once
// What a cache folder looks like: `manifest.json` + `shard-NNNNN.h5` (docs: the contract's section
// 7).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"

namespace strata {

enum class CacheKind { text, latent };
/// How /values is stored; `int8` has one f32 scale a token (text only).
enum class CacheDType { bfloat16, float16, float32, int8 };

CacheDType parse_cache_dtype(const std::string& name);  // Error(64)
std::string_view name_of(CacheDType dtype);
std::size_t size_of(CacheDType dtype);

struct ShardRecord {
  std::string file;  // shard-NNNNN.h5
  std::int64_t count = 0, tokens = 0, bytes = 0;
  std::string sha256;       // of the whole file
  std::string meta_sha256;  // of every byte outside /values
  /// int8 only, else 0: root mean square of what rounding took away, relative to the values'.
  double storage_error = 0;
};

/// manifest.json. A key that has no meaning for the kind is null there and empty here.
struct CacheManifest {
  CacheKind kind = CacheKind::text;
  std::int64_t count = 0, tokens = 0;  // rows; tokens of all rows (text)
  std::int64_t dim = 0;                // D (text), C (latent), 2C (latent moments)
  std::vector<std::int64_t> shape;     // of one row's element: (D), (C, h, w) or (2C, h, w)
  CacheDType dtype = CacheDType::bfloat16;
  std::string strategy;  // text
  std::int64_t max_tokens = 0;
  std::string attention;  // text: causal | bidirectional
  std::string model;      // the frozen model's folder name
  std::string weights_sha256, tokenizer_sha256, index_sha256;
  std::string latent_kind;     // latent: sample | mean | moments ([mean | std] of the posterior)
  bool latent_scaled = false;  // latent: shifted and scaled as the diffusion model takes them
  std::vector<ShardRecord> shards;

  std::string to_json() const;
  /// Bounded and strict: unknown, missing or contradictory keys are Error(65) naming `path`.
  static CacheManifest parse(std::string_view json, const std::string& path);
  static CacheManifest load(const std::string& dir);

  /// What is known of a cache before it is built: to_json without tokens and shards.
  std::string head_json() const;
  /// Its SHA-256. Every shard carries it, so that none of it can change without being seen.
  std::string head_sha256() const;
  /// Values of one token (text) or of one sample (latent).
  std::int64_t elements() const;
  /// The shards' storage errors together, weighted by tokens.
  double storage_error() const;
  bool holds_moments() const { return latent_kind == "moments"; }
  /// C of the latents that training sees.
  std::int64_t latent_channels() const { return holds_moments() ? dim / 2 : dim; }
};

/// "shard-00012.h5"
std::string shard_name(std::int64_t shard);

/// CRC-32C of the int64 id, then the row's bytes of /values, /scale and /pooled.
std::uint32_t row_crc(std::int64_t sample, std::span<const std::byte> values,
                      std::span<const std::byte> scale, std::span<const std::byte> pooled);

/// Stored bytes -> f32 and back; `scale` (f32, one a token) only for int8. to_stored rounds to
/// nearest even and returns false when a finite value became infinite.
void widen(float* out, const std::byte* stored, CacheDType dtype, std::int64_t tokens,
           std::int64_t elements, const float* scale);
bool to_stored(std::byte* out, float* scale, const float* values, CacheDType dtype,
               std::int64_t tokens, std::int64_t elements);

}  // namespace strata
