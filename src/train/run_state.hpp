#pragma once
// What a checkpoint holds besides tensors, and what a resumed run may change.

#include <string>

#include "train/checkpoint.hpp"
#include "train/config.hpp"
#include "train/step.hpp"

namespace strata {

/// The counters that a resumed run continues with.
struct RunState {
  std::int64_t step = 0;     // steps done; the global sample counter is step * batch
  std::int64_t updates = 0;  // of them changed the weights
  int skipped = 0;           // steps in a row whose gradient was not finite
};

/// The JSON object of a checkpoint: state, data hashes, U-Net and text settings, config, build.
std::string host_json(const RunState& state, const TrainConfig& config, Learner& learner,
                      int ranks);
RunState parse_run_state(const CheckpointInfo& info);

/// Error(78) naming every key of the config, or the cache, that makes this another run.
void check_same_run(const CheckpointInfo& info, const TrainConfig& config, Learner& learner);
/// One line a difference that changes rounding only (ranks, threads, microbatch, build, ...).
std::vector<std::string> rounding_differences(const CheckpointInfo& info, const TrainConfig& config,
                                              Learner& learner, int ranks);

/// This rank's optimizer state as the checkpoint takes it.
CheckpointShard checkpoint_shard(Learner& learner);

/// Removes all but the newest `keep` checkpoints and those at multiples of keep_every (0: none).
/// keep = 0: keeps all. Only checkpoints whose manifest and files' sizes are right count, fewer
/// than two of them are never left (keep = 1 is 2), and damaged ones stay to be looked at. Removals
/// that an earlier job did not finish are finished. Error(74) where the folder cannot be read or
/// synced; then nothing is lost but space.
void prune_checkpoints(const std::string& root, std::int64_t keep, std::int64_t keep_every);

}  // namespace strata
