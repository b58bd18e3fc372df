#include "train/trainer.hpp"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "core/activity.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "core/progress.hpp"
#include "core/stop_signals.hpp"
#include "dist/monitor.hpp"
#include "train/metrics.hpp"
#include "train/plan.hpp"
#include "train/provenance.hpp"
#include "train/restarts.hpp"
#include "train/run_lock.hpp"
#include "train/run_saves.hpp"
#include "train/run_state.hpp"
#include "train/setup.hpp"
#include "train/step.hpp"
#include "train/step_trace.hpp"
#include "train/validation.hpp"

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;
using activity::Section;

constexpr int most_skipped_in_a_row = 3;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The run around the steps. Every public call is collective.
class Run {
 public:
  Run(const TrainConfig& config, const TrainOptions& options, Communicator& communicator)
      : config_(config),
        options_(options),
        communicator_(communicator),
        folder_{config.output.dir},
        restarts_(folder_.restarts()),
        learner_(config, communicator) {}

  TrainResult train();

 private:
  TrainResult train_to_the_end();
  void prepare_folder();
  void resume_or_start();
  void resume_from(const CheckpointInfo& info);
  CheckpointCheck same_run() {
    return [this](const CheckpointInfo& info) { check_same_run(info, config_, learner_); };
  }
  void open_records();
  /// False where the run went back to a checkpoint.
  bool after_step(StepOutcome& outcome, double step_s);
  bool is_due(std::int64_t step) const;
  bool check_numerics(const StepOutcome& outcome);
  void go_back(std::int64_t from, const std::string& why);
  void record(const StepOutcome& outcome, double step_s);
  void write_dump(const StepDump& dump, const StepOutcome& outcome) const;
  bool validation_is_due() const;
  bool validate_now();
  void preview_now();
  void say(const std::string& text);

  bool is_first_rank() const { return communicator_.rank() == 0; }
  std::int64_t step() const { return learner_.steps(); }
  std::int64_t samples() const { return step() * config_.train.batch; }

  const TrainConfig& config_;
  const TrainOptions& options_;
  Communicator& communicator_;
  const RunFolder folder_;
  const Restarts restarts_;
  StopSignals signals_;
  std::optional<RunLock> lock_;  // rank 0
  std::int64_t epoch_ = 0;       // of the lock
  Learner learner_;
  std::optional<LineLog> log_;
  std::optional<RunSaves> saves_;      // read the learner's state
  std::optional<MetricsLog> metrics_;  // rank 0
  Preview preview_;
  int skipped_ = 0;
  std::int64_t went_back_from_ = 0;  // the step that made the run go back to a checkpoint
  double matmul_rate_ = 0, flops_an_image_ = 0;
  std::int64_t recorded_step_ = 0;
  double trained_s_ = 0;  // spent in steps since the last record
};

void Run::say(const std::string& text) {
  log::info("{}", text);
  log_->append(utc_now() + " " + text);
}

void Run::prepare_folder() {
  together(communicator_, [&] {
    if (!is_first_rank()) return;
    make_directories(folder_.dir);
    lock_.emplace(folder_.dir);
    epoch_ = lock_->epoch();
    const bool anew = options_.resume == "never";
    if (anew && !options_.overwrite && !list_checkpoints(folder_.checkpoints()).empty())
      fail(Exit::cannot_create,
           "{}: holds checkpoints, and --resume never was asked for (--overwrite removes them)",
           folder_.dir);
    if (anew && options_.overwrite) folder_.clear();
    std::filesystem::remove(folder_.exit_note());
  });
  communicator_.broadcast(std::as_writable_bytes(std::span(&epoch_, 1)), 0);
  activity::set_paths(folder_.exit_note().c_str(), folder_.hang_log().c_str(),
                      RunLock::file(folder_.dir, epoch_).c_str());
}

void Run::resume_from(const CheckpointInfo& info) {
  for (const std::string& refused : info.refused)
    log_->append(fmt::format("{} checkpoint refused: {}", utc_now(), refused));
  const RunState state = parse_run_state(info);
  skipped_ = state.skipped;
  learner_.zero().restore_parameters();
  learner_.continue_after(state.step, state.updates);
  say(fmt::format("continued from {} at step {}", info.path, state.step));
  const auto changes = rounding_differences(info, config_, learner_, communicator_.size());
  for (const auto& change : changes) say("changed since the checkpoint: " + change);
}

void Run::resume_or_start() {
  activity::enter(Section::load);
  const CheckpointShard shard = checkpoint_shard(learner_);
  const auto check = same_run();
  if (options_.resume != "never" && options_.resume != "auto")
    return resume_from(load_checkpoint(communicator_, options_.resume, shard, check));
  if (options_.resume == "auto")
    if (const auto info =
            load_latest_checkpoint(communicator_, folder_.checkpoints(), shard, check))
      return resume_from(*info);
  learner_.initialize_weights();
  learner_.continue_after(0, 0);
}

void Run::open_records() {
  const std::string provenance = provenance_json(config_, learner_, communicator_);
  if (is_first_rank()) {
    write_file_atomically(folder_.config(), to_toml(config_, true));
    write_file_atomically(folder_.provenance(), provenance);
    metrics_.emplace(folder_);
  }
  double rate[] = {measured_matmul_rate(learner_.exec(), compute_dtype(config_))};
  communicator_.all_reduce_sum(rate);
  matmul_rate_ = rate[0];
  const Shape latent = learner_.caches().latent_shape();
  const auto& text = learner_.caches().text_manifest();
  const Flops flops = learner_.unet().flops(latent[1], latent[2],
                                            text.tokens / std::max<std::int64_t>(text.count, 1));
  flops_an_image_ = flops.forward + flops.backward;
  say(fmt::format(
      "rank {} of {}: process {} on {}, {} threads, microbatch {}, {} samples, {} parameters",
      communicator_.rank(), communicator_.size(), getpid(), host_name(), learner_.exec().threads(),
      learner_.microbatch(), learner_.caches().size(), learner_.unet().parameters().numel()));
}

/// Whether the run goes on from here, not from a checkpoint that it went back to.
bool Run::check_numerics(const StepOutcome& outcome) {
  if (outcome.applied) {
    skipped_ = 0;
    if (outcome.step == went_back_from_)
      say(fmt::format(
          "step {}: finite this time, with the same data and noise: suspect the hardware",
          outcome.step));
    return true;
  }
  ++skipped_;
  const auto end = outcome.step * config_.train.batch;
  const auto text =
      fmt::format("step {}: the gradient is not finite (loss {}): update skipped, samples {}..{}",
                  outcome.step, outcome.loss, end - config_.train.batch, end - 1);
  if (is_first_rank()) log::warn("{}", text);
  log_->append(utc_now() + " " + text);
  if (skipped_ <= most_skipped_in_a_row) return true;
  go_back(outcome.step, fmt::format("{}; {} steps in a row", text, skipped_));
  return false;
}

/// Steps repeat to the bit, so what repeats is the data's or the model's fault, and what does not
/// is the machine's.
void Run::go_back(std::int64_t from, const std::string& why) {
  if (from <= went_back_from_)
    fail(Exit::numerics, "{}, as before from the last checkpoint on: data or model", why);
  went_back_from_ = from;
  activity::enter(Section::load);
  saves_->finish();
  const auto info = load_latest_checkpoint(communicator_, folder_.checkpoints(),
                                           checkpoint_shard(learner_), same_run());
  if (!info) fail(Exit::numerics, "{}, and no checkpoint to go back to", why);
  resume_from(*info);
  recorded_step_ = step();
  trained_s_ = 0;
}

void Run::record(const StepOutcome& outcome, double step_s) {
  // In microseconds and bytes: the slowest rank's times and the largest rank's memory.
  std::int64_t most[] = {std::llround(step_s * 1e6), std::llround(outcome.data_s * 1e6),
                         std::llround(outcome.comm_s * 1e6), peak_resident_bytes()};
  communicator_.all_reduce_max(most);
  if (!metrics_) return;
  StepRecord r;
  r.step = outcome.step;
  r.samples = outcome.step * config_.train.batch;
  r.epoch = (r.samples - 1) / learner_.caches().size();
  r.loss = outcome.loss;
  r.lr = learning_rate(config_.train, outcome.step);
  r.grad_norm = outcome.grad_norm;
  r.images_per_s =
      static_cast<double>((outcome.step - recorded_step_) * config_.train.batch) / trained_s_;
  r.images_per_s_per_rank = r.images_per_s / communicator_.size();
  r.mfu = r.images_per_s * flops_an_image_ / matmul_rate_;
  r.step_s = static_cast<double>(most[0]) * 1e-6;
  r.data_s = static_cast<double>(most[1]) * 1e-6;
  r.comm_s = static_cast<double>(most[2]) * 1e-6;
  r.mem_gb = static_cast<double>(most[3]) * 1e-9;
  metrics_->record(r);
  log_->append(fmt::format("{} step {} loss {:.6f} grad_norm {:.4g} lr {:.4g} {:.2f} images/s",
                           utc_now(), r.step, r.loss, r.grad_norm, r.lr, r.images_per_s));
}

void Run::write_dump(const StepDump& dump, const StepOutcome& outcome) const {
  const auto& c = config_.train;
  dump.write(folder_.dump(step(), communicator_.rank()),
             {{"step", fmt::format("{}", step())},
              {"rank", fmt::format("{}", communicator_.rank())},
              {"ranks", fmt::format("{}", communicator_.size())},
              {"batch", fmt::format("{}", c.batch)},
              {"update", fmt::format("{}", learner_.updates())},
              {"global_loss", fmt::format("{:.9g}", outcome.loss)},
              {"grad_norm", fmt::format("{:.9g}", outcome.grad_norm)},
              {"lr", fmt::format("{:.9g}", learning_rate(c, step()))},
              {"beta1", fmt::format("{}", c.betas[0])},
              {"beta2", fmt::format("{}", c.betas[1])},
              {"eps", fmt::format("{}", c.eps)},
              {"weight_decay", fmt::format("{}", c.weight_decay)},
              {"clip", fmt::format("{}", c.clip)},
              {"timesteps", fmt::format("{}", config_.diffusion.timesteps)},
              {"beta_schedule", config_.diffusion.beta_schedule},
              {"beta_start", fmt::format("{}", config_.diffusion.beta_start)},
              {"beta_end", fmt::format("{}", config_.diffusion.beta_end)},
              {"zero_terminal_snr", fmt::format("{}", config_.diffusion.zero_terminal_snr)},
              {"prediction", config_.diffusion.prediction},
              {"min_snr_gamma", fmt::format("{}", config_.diffusion.min_snr_gamma)},
              {"precision", c.precision}});
}

bool Run::validation_is_due() const {
  return learner_.caches().size(CacheSet::Part::validation) > 0 &&
         (step() % config_.validation.every == 0 || step() == config_.train.steps);
}

/// False when a stop cut it short: the run that goes on makes it first.
bool Run::validate_now() {
  activity::enter(Section::validate);
  ValidationOptions options;
  options.timesteps = static_cast<int>(config_.validation.timesteps);
  options.microbatch = learner_.microbatch();
  options.pooled = config_.data.pooled;
  if (step() < config_.train.steps) options.stop = [this] { return signals_.requested(); };
  const auto measured =
      run_validation(learner_.exec(), learner_.unet(), learner_.zero().weights(),
                     learner_.schedule(), learner_.caches(), options, communicator_);
  if (!measured) return false;
  ValidationRecord record = *measured;
  record.step = step();
  record.samples = samples();
  if (metrics_) metrics_->record(record);
  log_->append(
      fmt::format("{} validation at step {}: loss {:.6f}", utc_now(), step(), record.loss));
  return true;
}

void Run::preview_now() {
  activity::enter(Section::samples);
  const std::string dir = folder_.samples(step()), partial = dir + ".partial";
  if (is_first_rank()) {
    std::filesystem::remove_all(partial);
    make_directories(partial);
  }
  communicator_.barrier();
  const ParameterTable& table = learner_.unet().parameters();
  Weights weights = learner_.zero().weights();
  Buffer average;
  if (config_.train.ema_decay > 0) {
    average = Buffer(compute_dtype(config_), {table.numel()}, learner_.exec().device());
    learner_.zero().gather_ema(average);
    weights = Weights(table, average);
    learner_.exec().weights_changed();
  }
  preview_({step(), partial, learner_.exec(), learner_.unet(), weights});
  if (average.tensor()) learner_.exec().weights_changed();
  communicator_.barrier();
  if (!is_first_rank()) return;
  std::filesystem::remove_all(dir);
  std::filesystem::rename(partial, dir);
  sync_path(folder_.dir + "/samples");
  metrics_->record_images(step(), dir);
}

/// Whether the weights are looked at after this step, which must be done by then.
bool Run::is_due(std::int64_t step) const {
  const auto& c = config_.train;
  const auto at = [&](std::int64_t every) { return every > 0 && step % every == 0; };
  return step == c.steps || at(c.checkpoint_every) || (preview_ && at(config_.samples.every)) ||
         validation_is_due();
}

bool Run::after_step(StepOutcome& outcome, double step_s) {
  const auto& c = config_.train;
  if (lock_) lock_->confirm();
  saves_->look_after();
  if (!check_numerics(outcome)) return false;
  const bool last = outcome.step == c.steps;
  if (outcome.step % c.log_every == 0 || outcome.step == 1 || last || outcome.stop) {
    record(outcome, step_s);
    recorded_step_ = outcome.step;
    trained_s_ = 0;
  }
  if (outcome.step != step()) return true;  // the next one is under way
  if (validation_is_due() && !validate_now()) outcome.stop = true;
  if (preview_ && step() % config_.samples.every == 0) preview_now();
  // Not among skipped steps: what made them may be in the state that would be saved.
  const bool due = c.checkpoint_every > 0 && step() % c.checkpoint_every == 0 && skipped_ == 0;
  if (last || outcome.stop)
    saves_->save_and_wait(skipped_);
  else if (due)
    saves_->save(skipped_);
  return true;
}

TrainResult Run::train() {
  try {
    return train_to_the_end();
  } catch (const Error& e) {
    if (log_ && e.code() != Exit::owned) log_->append(utc_now() + " error: " + e.what());
    throw;
  } catch (const std::exception& e) {
    if (log_) log_->append(utc_now() + " error: " + e.what());
    throw;
  }
}

TrainResult Run::train_to_the_end() {
  prepare_folder();
  log_.emplace(folder_.log(communicator_.rank()));
  saves_.emplace(config_, folder_, restarts_, communicator_, learner_, *log_,
                 CheckpointOwner{epoch_, [this] { lock_->confirm_now(); }});
  if (options_.make_preview) preview_ = options_.make_preview();
  resume_or_start();
  open_records();

  TrainResult result;
  result.step = step();
  if (step() >= config_.train.steps) {
    if (step() == 0)
      saves_->save_and_wait(skipped_);  // no steps asked for: the initial weights are the result
    // A job that was killed right behind its last save has not removed what that replaced.
    together(communicator_, [&] {
      if (is_first_rank()) saves_->prune();
    });
    say(fmt::format("nothing to do: step {} of {} is done", step(), config_.train.steps));
    return result;
  }
  together(communicator_, [&] {
    if (!is_first_rank()) return;
    if (options_.resume != "auto") restarts_.forget();
    restarts_.begin(step(), config_.train.give_up_after);
  });
  Progress progress("train", config_.train.steps, "steps");
  progress.update(step());
  recorded_step_ = step();
  std::int64_t is_missing[] = {step() > 0 && metrics_ && !metrics_->has_validation(step())};
  communicator_.all_reduce_max(is_missing);
  if (is_missing[0] != 0 && validation_is_due()) validate_now();  // a stop had cut it
  StepTrace trace(communicator_, options_.trace, options_.trace_steps);
  while (step() < config_.train.steps && !result.stopped) {
    trace.before_step();
    const bool dumping = step() < options_.dump_steps;
    StepDump dump;
    const auto start = Clock::now();
    learner_.start_step(signals_.requested() || saves_->have_failed(), dumping ? &dump : nullptr);
    auto outcomes = learner_.finished_steps(dumping || is_due(step()));
    // Of two steps that come to their end here each took a half.
    const double step_s =
        seconds_since(start) / static_cast<double>(std::max<std::size_t>(1, outcomes.size()));
    if (outcomes.empty()) trained_s_ += step_s;
    if (dumping) write_dump(dump, outcomes.back());
    for (StepOutcome& outcome : outcomes) {
      trained_s_ += step_s;
      if (!after_step(outcome, step_s)) break;
      result = {step(), outcome.loss, outcome.stop && step() < config_.train.steps};
    }
    trace.after_step();
    progress.update(step(), fmt::format("loss {:.4f} | {:.2f} images/s", result.loss,
                                        static_cast<double>(config_.train.batch) / step_s));
  }
  activity::enter(Section::end);
  trace.finish();
  progress.finish(fmt::format("loss {:.4f}", result.loss));
  if (result.stopped) {
    say(fmt::format("stopped on request{} at step {}: a checkpoint is saved",
                    signals_.requested() ? " (" + signals_.name() + ")" : "", step()));
    if (is_first_rank())
      write_exit_note(folder_, Exit::requeue, 0,
                      fmt::format("stopped on request at step {}", step()));
  }
  return result;
}

/// Leaves exit.json behind from the lowest failing rank, but not in a folder that is another job's.
void note_failure(const TrainConfig& config, Communicator& communicator, Exit code,
                  const char* cause) {
  if (code != Exit::owned && communicator.reports_failure())
    write_exit_note({config.output.dir}, code, communicator.rank(), cause);
}

}  // namespace

TrainResult run_training(const TrainConfig& config, const TrainOptions& options,
                         Communicator& communicator) {
  try {
    microbatch_of(config, communicator.size());
    watch_for_hangs(config.train.hang_timeout);
    Run run(config, options, communicator);
    return run.train();
  } catch (const Error& e) {
    note_failure(config, communicator, e.code(), e.what());
    throw;
  } catch (const std::exception& e) {
    note_failure(config, communicator, Exit::internal, e.what());
    throw;
  }
}

}  // namespace strata
