#pragma once
// Building a cache: shards of a fixed number of rows, one writer a shard, whatever the ranks.
// Finished shards survive a kill in `.partial/`; the manifest comes last. The finished folder is
// byte-identical however often the job was killed and on however many ranks it ran.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file_lock.hpp"
#include "data/cache_format.hpp"

namespace strata {

struct CachePlan {
  CacheManifest manifest;       // count, dim, shape, dtype, ... ; tokens and shards are filled in
  std::int64_t pooled_dim = 0;  // P; 0: no /pooled
  std::int64_t rows_per_shard = 0;  // see default_rows_per_shard
  /// Whatever else decides the contents (seed, resolution): a rest of other settings is not
  /// continued.
  std::string details;

  std::int64_t shards() const;
  std::int64_t first_row(std::int64_t shard) const { return shard * rows_per_shard; }
  std::int64_t rows_in(std::int64_t shard) const;
};

/// A pure function of the data: enough shards to share among ranks, none above 2 GiB.
std::int64_t default_rows_per_shard(std::int64_t rows, std::int64_t bytes_per_row);

/// Writes one shard: rows come one by one, in any order, and go straight to their place in the
/// file.
class ShardWriter {
 public:
  ShardWriter(ShardWriter&&) noexcept;
  ShardWriter& operator=(ShardWriter&&) = delete;
  /// An unfinished shard is left behind as a temporary file that the next run replaces.
  ~ShardWriter();

  /// Row `row` of the shard, once. values: text (tokens, D), latent (C, h, w) or (1, C, h, w); f32
  /// or bf16, on the host. pooled (P) or absent, as planned. A non-finite value (also one too large
  /// for the dtype) is Error(65) naming the sample. Shapes other than planned are Error(70).
  void put(std::int64_t row, Tensor values, Tensor pooled = {});
  /// The row after the last one that was put or appended; at first the first.
  void append(Tensor values, Tensor pooled = {});
  /// All rows there: hash, fsync, rename, record.
  void finish();

 private:
  friend class CacheBuilder;
  struct State;
  explicit ShardWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// One cache folder under construction. Constructing it touches nothing.
class CacheBuilder {
 public:
  CacheBuilder(std::string dir, CachePlan plan);

  enum class Status { finished, open };
  /// Rank 0, before anybody else writes: makes DIR/.partial, takes its lock (Error(76) when another
  /// live job holds it) and compares the plan. `finished`: the very cache is there already. A
  /// finished cache of other settings is Error(73), an unfinished one Error(78), unless
  /// `overwrite`, which removes it.
  Status prepare(bool overwrite = false);
  /// Shards without a valid record, ascending (rank 0, after prepare).
  std::vector<std::int64_t> missing_shards() const;
  /// Any rank. samples: the ids of the shard's rows; tokens: the number of tokens of each row
  /// (text) or empty (latent). Both rows_in(shard) long.
  ShardWriter begin_shard(std::int64_t shard, std::span<const std::int64_t> samples,
                          std::span<const std::int64_t> tokens = {}) const;
  /// Rank 0, when every rank has finished: moves the shards out of `.partial/`, writes
  /// manifest.json.
  void publish();

  const CachePlan& plan() const { return plan_; }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
  CachePlan plan_;
  FileLock lock_;
};

}  // namespace strata
