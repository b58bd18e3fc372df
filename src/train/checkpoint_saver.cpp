#include "train/checkpoint_saver.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "core/activity.hpp"
#include "core/log.hpp"
#include "core/spans.hpp"

namespace strata {

namespace {
using Clock = std::chrono::steady_clock;
/// The calling thread gets what time the cores have left. It cannot starve the save: where it
/// holds what a step waits for, the step's core is free. Under nice 10 hashing took a tenth of the
/// cores from the steps (docs/decisions.md).
void give_way() {
  const sched_param none{};
  if (sched_setscheduler(0, SCHED_IDLE, &none) != 0)  // 0: of this thread alone (Linux)
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 19);
}

}  // namespace

struct CheckpointSaver::Flight {
  Flight(SaveOrder order_, Snapshot::Spare spare)
      : order(std::move(order_)),
        snapshot(order.shard.tensors(), Snapshot::most_kept_bytes, Snapshot::default_patience,
                 std::move(spare)) {}
  const SaveOrder order;
  Snapshot snapshot;
  const Clock::time_point start = Clock::now();

  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  SaveOutcome outcome;
};

CheckpointSaver::CheckpointSaver(Communicator& communicator, bool in_background)
    : communicator_(communicator), exceptions_(std::uncaught_exceptions()) {
  if (in_background && communicator.concurrent()) channel_ = communicator.duplicate();
}

CheckpointSaver::~CheckpointSaver() {
  if (!thread_.joinable()) return;
  if (std::uncaught_exceptions() > exceptions_) {
    // The run is about to end. Other ranks may never answer the thread, nor a file system: then it
    // is left behind with what it holds, and reads no state any more.
    flight_->snapshot.abandon("the run has ended with an error");
    std::unique_lock lock(flight_->mutex);
    if (!flight_->ended.wait_for(lock, std::chrono::seconds(1), [&] { return flight_->done; })) {
      thread_.detach();
      return;
    }
  }
  thread_.join();
}

void CheckpointSaver::fly(Flight& flight, Communicator& channel) {
  SaveOutcome outcome;
  const SaveOrder& order = flight.order;
  outcome.step = order.step;
  const spans::Span span("checkpoint", "checkpoint", static_cast<int>(order.step));
  try {
    outcome.info = save_checkpoint(channel, order.root, order.step, order.shard, order.config_hash,
                                   order.host_json, order.owner, flight.snapshot);
  } catch (...) {
    outcome.error = std::current_exception();
  }
  try {
    if (!outcome.error) order.afterwards();
  } catch (const std::exception& error) {  // of one rank: the others have their checkpoint
    log::warn("{}; the checkpoint of step {} is saved", error.what(), order.step);
  }
  outcome.seconds = std::chrono::duration<double>(Clock::now() - flight.start).count();
  outcome.delay_seconds = flight.snapshot.delay_seconds();
  const std::lock_guard lock(flight.mutex);
  flight.outcome = std::move(outcome);
  flight.done = true;
  flight.ended.notify_all();
}

void CheckpointSaver::begin(SaveOrder order) {
  STRATA_CHECK(!flight_, "a save is in flight");
  flight_ = std::make_shared<Flight>(std::move(order), std::exchange(spare_, {}));
  if (!channel_) return fly(*flight_, communicator_);
  thread_ = std::thread([flight = flight_, channel = channel_] {
    activity::set_thread(activity::Thread::checkpoint);
    spans::name_thread("checkpoint");
    if (!flight->order.is_waited_for) give_way();
    fly(*flight, *channel);
  });
}

void CheckpointSaver::before_change(IndexRange elements) {
  if (flight_) flight_->snapshot.before_change(elements);
}

bool CheckpointSaver::done() const {
  if (!flight_) return true;
  const std::lock_guard lock(flight_->mutex);
  return flight_->done;
}

double CheckpointSaver::seconds_in_flight() const {
  if (!flight_) return 0;
  return std::chrono::duration<double>(Clock::now() - flight_->start).count();
}

std::optional<SaveOutcome> CheckpointSaver::collect() {
  if (!flight_) return std::nullopt;
  if (thread_.joinable()) {
    const activity::Waits waits(activity::Collective::thread);
    thread_.join();
  }
  SaveOutcome outcome = std::move(flight_->outcome);
  spare_ = flight_->snapshot.take_spare();
  flight_.reset();
  return outcome;
}

}  // namespace strata
