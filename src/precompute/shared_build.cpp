#include "precompute/shared_build.hpp"

#include <map>
#include <sstream>

#include "core/error.hpp"
#include "core/progress.hpp"
#include "core/stop_signals.hpp"

namespace strata {

namespace {

/// Missing shards and, for each, the caches that lack it.
using Missing = std::map<std::int64_t, std::vector<std::size_t>>;

/// "open" caches and their missing shards as text: "o BUILDER" and "m SHARD BUILDER" lines.
std::string prepare(const SharedBuild& job) {
  std::string plan;
  for (std::size_t i = 0; i < job.builders.size(); ++i) {
    if (job.builders[i].prepare(job.overwrite) == CacheBuilder::Status::finished) continue;
    plan += fmt::format("o 0 {}\n", i);
    for (std::int64_t shard : job.builders[i].missing_shards())
      plan += fmt::format("m {} {}\n", shard, i);
  }
  return plan;
}

void parse(const std::string& plan, Missing& missing, std::vector<std::size_t>& open) {
  std::istringstream lines(plan);
  std::string what;
  std::int64_t shard = 0;
  for (std::size_t builder = 0; lines >> what >> shard >> builder;) {
    if (what == "o")
      open.push_back(builder);
    else
      missing[shard].push_back(builder);
  }
}

/// Rank 0 sees its own rows only; every rank is taken to be as fast.
class SharedProgress {
 public:
  SharedProgress(const SharedBuild& job, std::int64_t total, std::int64_t own)
      : shown_(job.what, total, job.unit), total_(total), own_(own) {
    shown_.update(0);
  }
  void add(std::int64_t rows, const std::string& beside) {
    done_ += rows;
    shown_.update(own_ == 0 ? total_ : done_ * total_ / own_, beside);
  }
  void finish() { shown_.finish(); }

 private:
  Progress shown_;
  std::int64_t total_, own_, done_ = 0;
};

}  // namespace

bool build_shared(Communicator& communicator, const SharedBuild& job, const ShardBuild& build) {
  STRATA_CHECK(!job.builders.empty());
  const CachePlan& plan = job.builders.front().plan();
  for (const CacheBuilder& builder : job.builders)
    STRATA_CHECK(builder.plan().rows_per_shard == plan.rows_per_shard &&
                 builder.plan().manifest.count == plan.manifest.count);
  const bool first = communicator.rank() == 0;
  Missing missing;
  std::vector<std::size_t> open;
  parse(communicator.all_gather_strings(first ? prepare(job) : "").front(), missing, open);
  if (open.empty()) return false;

  std::vector<std::int64_t> mine;
  std::int64_t rows = 0, own_rows = 0, turn = 0;
  for (const auto& [shard, builders] : missing) {
    rows += plan.rows_in(shard);
    if (turn++ % communicator.size() != communicator.rank()) continue;
    mine.push_back(shard);
    own_rows += plan.rows_in(shard);
  }
  SharedProgress progress(job, rows, own_rows);
  together_until_stopped(communicator, [&] {
    for (std::int64_t shard : mine) {
      std::vector<CacheBuilder*> unfinished;
      for (std::size_t builder : missing[shard]) unfinished.push_back(&job.builders[builder]);
      build(shard, unfinished, [&](std::int64_t done, const std::string& beside) {
        check_stop();
        progress.add(done, beside);
      });
    }
  });
  progress.finish();
  if (first)
    for (std::size_t builder : open) job.builders[builder].publish();
  communicator.barrier();
  return true;
}

}  // namespace strata
