#include "train/run_saves.hpp"

#include <utility>

#include "core/activity.hpp"
#include "core/error.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "dist/out_of_step.hpp"
#include "train/run_state.hpp"

namespace strata {

namespace {
constexpr int most_failed_in_a_row = 3;
}

RunSaves::RunSaves(const TrainConfig& config, const RunFolder& folder, const Restarts& restarts,
                   Communicator& communicator, Learner& learner, LineLog& log,
                   CheckpointOwner owner)
    : config_(config),
      folder_(folder),
      restarts_(restarts),
      communicator_(communicator),
      learner_(learner),
      log_(log),
      owner_(std::move(owner)),
      saver_(communicator, config.train.checkpoint_background) {
  learner_.before_change([this](IndexRange elements) { saver_.before_change(elements); });
}

RunSaves::~RunSaves() {
  learner_.before_change([](IndexRange) {});
}

void RunSaves::prune() const {
  prune_checkpoints(folder_.checkpoints(), config_.train.keep, config_.train.keep_every);
}

void RunSaves::begin(bool is_waited_for, int skipped) {
  // Ranks that did not make the same calls in this step know it by the time all weights are here.
  static_cast<void>(learner_.zero().weights());
  SaveOrder order;
  order.is_waited_for = is_waited_for;
  order.root = folder_.checkpoints();
  order.step = learner_.steps();
  order.shard = checkpoint_shard(learner_);
  order.config_hash = config_hash(config_);
  order.host_json = host_json({learner_.steps(), learner_.updates(), skipped}, config_, learner_,
                              communicator_.size());
  order.owner = owner_;
  if (communicator_.rank() == 0) order.afterwards = [this] { prune(); };
  saver_.begin(std::move(order));
}

void RunSaves::finish() {
  const auto outcome = saver_.collect();
  if (!outcome) return;
  if (!outcome->error) {
    failed_ = 0;
    if (communicator_.rank() == 0) restarts_.forget();
    log_.append(fmt::format("{} checkpoint {} in {:.2f} s, of which training waited {:.3f} s",
                            utc_now(), outcome->info.path, outcome->seconds,
                            outcome->delay_seconds));
    return;
  }
  try {
    std::rethrow_exception(outcome->error);
  } catch (const OutOfStep&) {
    throw;
  } catch (const Error& error) {
    if (error.code() == Exit::owned) throw;
    const auto text = fmt::format("{}: no checkpoint of step {}", error.what(), outcome->step);
    failed_ += 1;
    last_failure_ = text;
    if (communicator_.rank() == 0)
      log::warn("ALARM: {} (failure {}; the run ends with {} in a row)", text, failed_,
                most_failed_in_a_row);
    log_.append(utc_now() + " ALARM: " + text);
  }
}

bool RunSaves::have_failed() const {
  return failed_ >= most_failed_in_a_row;
}

/// Where all ranks are together.
void RunSaves::give_up_if_failed() const {
  if (have_failed()) fail(Exit::io, "{}; {} saves failed in a row", last_failure_, failed_);
}

void RunSaves::look_after() {
  if (!saver_.in_flight()) return;
  if (saver_.done()) return finish();
  const double most = 10 * config_.train.hang_timeout, so_far = saver_.seconds_in_flight();
  if (most > 0 && so_far > most)
    fail(Exit::io, "{}: a checkpoint has been in the writing for {:.0f} s", folder_.checkpoints(),
         so_far);
}

void RunSaves::save(int skipped) {
  activity::enter(activity::Section::save);
  std::int64_t is_busy[] = {saver_.done() ? 0 : 1};
  communicator_.all_reduce_max(is_busy);
  if (is_busy[0] == 0) {
    finish();
    give_up_if_failed();
    begin(false, skipped);
    return;
  }
  const auto text = fmt::format(
      "no checkpoint of step {}: the one before it is still being written", learner_.steps());
  if (communicator_.rank() == 0 && missed_ == 0) log::warn("{}; said once", text);
  log_.append(fmt::format("{} {} (missed: {})", utc_now(), text, ++missed_));
}

void RunSaves::save_and_wait(int skipped) {
  activity::enter(activity::Section::save);
  finish();
  give_up_if_failed();
  begin(true, skipped);
  finish();
  if (failed_ == 0) return;
  begin(true, skipped);  // once more, in a new folder
  const auto outcome = saver_.collect();
  if (outcome->error) std::rethrow_exception(outcome->error);
  if (communicator_.rank() == 0) restarts_.forget();
}

}  // namespace strata
