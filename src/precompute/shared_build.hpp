#pragma once
// The collective frame of every caching job: which rank builds which shard, and when it is
// published.

#include <functional>
#include <span>
#include <string>

#include "data/cache_writer.hpp"
#include "dist/communicator.hpp"

namespace strata {

struct SharedBuild {
  /// One or more caches of the same rows and the same rows_per_shard (the strategies of one pass).
  std::span<CacheBuilder> builders;
  bool overwrite = false;
  std::string what;  // for the progress line
  std::string unit = "samples";
};

/// Told after each `rows` rows done (0: a sign of life between them); `beside` is shown beside
/// them.
using ReportRows = std::function<void(std::int64_t rows, const std::string& beside)>;
/// Builds shard `shard` of each cache in `unfinished`: begin_shard, append or put, finish.
using ShardBuild = std::function<void(std::int64_t shard, std::span<CacheBuilder* const> unfinished,
                                      const ReportRows& report)>;

/// Collective. Rank 0 prepares the folders and lists the shards still missing somewhere; the i-th
/// of them is built by rank i % size; then rank 0 publishes. False when every cache was finished
/// before. Error(75) when a stop was asked for: shards that were begun then are begun anew later.
bool build_shared(Communicator& communicator, const SharedBuild& job, const ShardBuild& build);

}  // namespace strata
