#pragma once
// When a run saves, and what becomes of saves that fail.

#include <string>

#include "train/checkpoint_saver.hpp"
#include "train/config.hpp"
#include "train/metrics.hpp"
#include "train/restarts.hpp"
#include "train/run_folder.hpp"
#include "train/step.hpp"

namespace strata {

/// The checkpoints of one run. Every call but `have_failed` is collective.
class RunSaves {
 public:
  /// owner: of the run folder. `log` is this rank's. Restarts are forgotten with every checkpoint.
  RunSaves(const TrainConfig& config, const RunFolder& folder, const Restarts& restarts,
           Communicator& communicator, Learner& learner, LineLog& log, CheckpointOwner owner);
  ~RunSaves();
  RunSaves(const RunSaves&) = delete;
  RunSaves& operator=(const RunSaves&) = delete;

  /// A checkpoint is due. Where the one before it is still being written this one is left out.
  /// skipped: steps in a row whose gradient was not finite, here and below.
  void save(int skipped);
  /// The last checkpoint, or one that was asked for: it is there when this returns. Error(74).
  void save_and_wait(int skipped);
  /// At the end of every step. Error(74) where a save has been under way for ten times the hang
  /// timeout.
  void look_after();
  /// Waits for the save in flight, if any. One that failed leaves older checkpoints as they were,
  /// and the run goes on: the next one may find room.
  void finish();
  /// As many failed in a row as end the run. Each rank learns of it at a step of its own.
  bool have_failed() const;
  /// Removes what retention does not keep. On rank 0 alone.
  void prune() const;

 private:
  void begin(bool is_waited_for, int skipped);
  void give_up_if_failed() const;

  const TrainConfig& config_;
  const RunFolder& folder_;
  const Restarts& restarts_;
  Communicator& communicator_;
  Learner& learner_;
  LineLog& log_;
  const CheckpointOwner owner_;
  CheckpointSaver saver_;        // reads the learner's state
  int failed_ = 0, missed_ = 0;  // in a row; in all
  std::string last_failure_;
};

}  // namespace strata
