#pragma once
// Checkpoints that are written while the run goes on.

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "train/checkpoint.hpp"
#include "train/snapshot.hpp"

namespace strata {

/// What `save_checkpoint` is to be called with.
struct SaveOrder {
  std::string root;
  std::int64_t step = 0;
  CheckpointShard shard;
  std::string config_hash, host_json;
  CheckpointOwner owner;
  bool is_waited_for = false;  // else it takes only time that the steps leave
  /// On every rank, once the checkpoint has its name; what it throws is a warning.
  std::function<void()> afterwards = [] {};
};

/// What became of an order; the same on every rank.
struct SaveOutcome {
  std::int64_t step = 0;
  CheckpointInfo info;  // when there is no error
  std::exception_ptr error{};
  double seconds = 0;        // from order to publication
  double delay_seconds = 0;  // of them the optimizer was held up
};

/// One save at a time, by a thread and a channel of its own, which the training's collectives never
/// meet. Without threads in MPI (Communicator::concurrent), or when not asked for, `begin` returns
/// when the save is done.
class CheckpointSaver {
 public:
  /// Collective.
  CheckpointSaver(Communicator& communicator, bool in_background);
  /// Waits for the save in flight; leaves it when an exception passes, after a moment.
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  /// Collective; none may be in flight (`collect`). The states may change from now on, after
  /// `before_change`, and must outlive the save.
  void begin(SaveOrder order);
  /// Elements [begin, end) of the shard's states are about to change.
  void before_change(IndexRange elements);
  /// Whether a save began and its outcome was not collected.
  bool in_flight() const { return flight_ != nullptr; }
  /// Whether this rank is done with it.
  bool done() const;
  double seconds_in_flight() const;
  /// Waits. None: nothing was in flight.
  std::optional<SaveOutcome> collect();

 private:
  struct Flight;
  static void fly(Flight& flight, Communicator& channel);

  Communicator& communicator_;
  std::shared_ptr<Communicator> channel_;  // null: saves are done by `begin`
  std::shared_ptr<Flight> flight_;
  Snapshot::Spare spare_;
  std::thread thread_;
  int exceptions_;
};

}  // namespace strata
