#pragma once
// Reading a cache: everything outside /values is hashed before a shard's metadata is read; rows are
// then read with pread at the dataset's offset, and each row's CRC-32C is checked.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"
#include "data/cache_format.hpp"

namespace strata {

class CacheReader {
 public:
  /// Checks the manifest and every shard's meta_sha256 and layout. Damage is Error(65) naming the
  /// shard.
  explicit CacheReader(const std::string& dir);
  ~CacheReader();
  CacheReader(CacheReader&&) noexcept;
  CacheReader& operator=(CacheReader&&) = delete;

  const CacheManifest& manifest() const { return manifest_; }
  const std::string& dir() const { return dir_; }
  /// The settings it was built with beyond the manifest (CachePlan::details).
  const std::string& provenance() const { return provenance_; }
  /// P, or 0 without /pooled.
  std::int64_t pooled_dim() const { return pooled_dim_; }
  std::int64_t rows() const { return manifest_.count; }
  /// Sample ids, strictly ascending; row i holds sample samples()[i].
  std::span<const std::int64_t> samples() const { return samples_; }
  /// -1 when the sample is not there.
  std::int64_t find(std::int64_t sample) const;
  /// Tokens of one row (text); 1 for latents.
  std::int64_t tokens(std::int64_t row) const;

  /// How rows lie in the cache, where a tensor can lie so: bf16, otherwise f32.
  DType values_dtype() const;
  DType pooled_dtype() const;
  /// It will be read soon: its values are fetched meanwhile. Thread-safe.
  void will_read(std::int64_t row) const;
  /// Reads one row and checks its CRC: Error(65) naming shard and sample. values: tokens(row) *
  /// manifest().elements(), pooled: P or absent; each f32, or as above. Thread-safe.
  void read_row(std::int64_t row, Tensor values, Tensor pooled) const;
  /// The same, f32; pooled may be null.
  void read_row(std::int64_t row, float* values, float* pooled) const;

  struct Shard;

 private:
  const Shard& shard_of(std::int64_t row) const;

  std::string dir_, provenance_;
  CacheManifest manifest_;
  std::int64_t pooled_dim_ = 0;
  std::vector<std::int64_t> samples_;
  std::vector<std::unique_ptr<Shard>> shards_;
};

/// Counts of one cache; non-finite values are counted, not refused.
struct CacheStats {
  std::int64_t count = 0, tokens = 0, bytes = 0, nan = 0, infinite = 0;
  std::int64_t min_tokens = 0, max_tokens = 0;
  std::vector<std::int64_t> token_histogram;   // rows with exactly i tokens (text)
  double storage_error = 0;                    // int8: relative root mean square of the rounding
  double mean = 0, std = 0, min = 0, max = 0;  // of the finite values; of moments, of the means
  struct Deviations {
    double mean = 0, min = 0, max = 0;
  };
  std::optional<Deviations> deviations;  // of a cache of moments: the posteriors' std
  std::string to_json() const;
};

/// Reads everything; a row whose CRC is wrong is Error(65).
CacheStats cache_stats(const CacheReader& cache);
/// Every checksum of the folder: sha256 and meta_sha256 of each shard, then each row's CRC.
/// Error(65) at the first damage, naming the shard, and the sample when a row is damaged.
void verify_cache(const std::string& dir);

}  // namespace strata
