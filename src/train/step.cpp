#include "train/step.hpp"

#include <numeric>
#include <vector>

#include "core/activity.hpp"
#include "core/spans.hpp"
#include "dist/node_memory.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"
#include "train/conditioning.hpp"
#include "train/provenance.hpp"
#include "train/replicas.hpp"
#include "train/setup.hpp"

namespace strata {

namespace {
/// What a step sends back: its decision, then the losses of each microbatch.
struct ResultLayout {
  std::size_t a_microbatch, bytes;
  ResultLayout(std::int64_t samples, int microbatches)
      : a_microbatch(static_cast<std::size_t>(samples) * sizeof(float)),
        bytes(losses(microbatches)) {}
  std::size_t losses(int microbatch) const {
    return static_cast<std::size_t>(ops::decision_bytes) +
           a_microbatch * static_cast<std::size_t>(microbatch);
  }
};

constexpr std::int64_t update_key = -1;  // passes have their rows of text, which are not negative
}  // namespace

StepMode step_mode(const TrainConfig& config) {
  if (config.train.device == "host") return {};
  // A tree adds microbatches in an order that no recording of one of them holds.
  const bool replays = config.train.graph && config.train.reduction == "fast";
  return {.replays = replays, .text_buckets = 8, .behind = 1};
}

RowBuckets step_buckets(const CacheSet& caches, std::int64_t samples, int microbatches,
                        const StepMode& mode) {
  return text_buckets(caches, samples,
                      microbatches > 1 ? (mode.text_buckets + 1) / 2 : mode.text_buckets);
}

Learner::Learner(const TrainConfig& config, Communicator& communicator, StepMode mode)
    : config_(config),
      communicator_(communicator),
      mode_(mode),
      key_{static_cast<std::uint64_t>(config.train.seed)},
      microbatch_(microbatch_of(config, communicator.size())),
      exec_(device_of(config, communicator), static_cast<int>(config.train.threads)),
      between_devices_(connect_devices(communicator, exec_.device())),
      caches_(open_caches(config)),
      latents_hash_(cache_hash(config.data.latents)),
      text_hash_(cache_hash(config.data.text)),
      schedule_(schedule_of(config.diffusion)),
      unet_(resolve_unet(config, caches_)),
      zero_(exec_, for_tensors(between_devices_, communicator), unet_.parameters(),
            zero2_options(config)),
      buckets_(step_buckets(caches_, microbatch_, microbatches(), mode)),
      input_(exec_, microbatch_shape(caches_, microbatch_, config.data.pooled,
                                     compute_dtype(config), buckets_)),
      losses_(DType::f32, {microbatch_}, exec_.device()),
      results_(exec_, ResultLayout(microbatch_, microbatches()).bytes, mode.behind + 1),
      replays_(exec_, mode.replays) {
  exec_.measure_choices(config.train.plan_cache);
  const bool reads_again = microbatches() > 1;  // one reads each but once between two updates
  exec_.keep_layouts(reads_again);
  if (reads_again) share_layouts(exec_, communicator, zero_.weights().flat());
}

void Learner::initialize_weights() {
  const ParameterTable& table = unet_.parameters();
  if (config_.model.init.empty()) {
    const Buffer flat(DType::f32, {table.numel()});
    initialize(table, flat, key_.seed);
    zero_.set_parameters(flat);
  } else {
    const SafetensorsFolder folder(module_folder(config_.model.init, "unet"),
                                   "diffusion_pytorch_model");
    zero_.set_parameters(load_parameters(table, folder));
  }
}

void Learner::continue_after(std::int64_t steps, std::int64_t updates) {
  steps_ = steps;
  updates_ = updates;
  under_way_.clear();
  zero_.continue_after(updates);
  LoaderSchedule schedule;
  schedule.global_batch = config_.train.batch;
  schedule.first_counter = static_cast<std::uint64_t>(steps) * config_.train.batch;
  schedule.microbatch = microbatch_;
  schedule.rank = communicator_.rank();
  schedule.ranks = communicator_.size();
  schedule.steps = config_.train.steps - steps;
  loader_ = std::make_unique<Loader>(caches_, SampleOrder(caches_.size(), key_.seed), schedule,
                                     static_cast<int>(config_.data.prefetch));
}

int Learner::microbatches() const {
  return static_cast<int>(config_.train.batch / (microbatch_ * communicator_.size()));
}

void Learner::pass(std::int64_t rows, bool first, const Batch& batch, const Captions& captions,
                   StepDump* dump) {
  const ArenaScope scope(exec_.arena);
  if (first && mode_.replays) zero_.gather_updated();
  const PassInput input = input_.at(rows);
  const PassResult result =
      run_passes(exec_, unet_, zero_.arriving_weights(), zero_, input,
                 {.prediction = schedule_.config().prediction,
                  .key = key_,
                  .grad_scale = 1.0f / static_cast<float>(config_.train.batch),
                  .recompute = config_.train.recompute},
                 losses_);
  zero_.end_microbatch();
  if (dump)
    dump->add({batch, captions, result.latents, result.noised,
               input.text.tokens.rows(0, captions.tokens()), input.pooled, losses_});
}

void Learner::run_microbatch(int index, UnderWay& step, StepDump* dump) {
  activity::enter(activity::Section::data);
  const Batch batch = loader_->next();
  activity::enter(activity::Section::step);
  const Captions captions = choose_captions(batch, key_, config_.train.caption_drop);
  const NoisePlan noise = plan_noise(schedule_, key_, batch.samples, batch.epochs,
                                     {.min_snr_gamma = config_.diffusion.min_snr_gamma});
  std::int64_t rows[] = {buckets_.rows_for(captions.tokens())};
  // A recording with collectives in it is played by all ranks or none.
  if (mode_.replays) communicator_.all_reduce_max(rows);
  input_.set(batch, captions, noise, rows[0]);

  const bool first = index == 0;
  const auto body = [&] { pass(rows[0], first, batch, captions, dump); };
  if (dump)
    body();
  else if (!replays_.run(2 * rows[0] + (first ? 1 : 0), body))
    zero_.skip_microbatch();
  results_.take(step.slot, ResultLayout(microbatch_, microbatches()).losses(index), losses_);
  step.weights.push_back(noise.weight);
}

void Learner::update_weights() {
  const spans::Span span("update", "pass");
  const auto& c = config_.train;
  // How many updates the steps under way have made is known on the device only.
  std::vector<UpdateOptions> candidates;
  for (std::int64_t made = updates_; made <= updates_ + std::ssize(under_way_); ++made)
    candidates.push_back({.adamw = {.lr = learning_rate(c, steps_),
                                    .beta1 = c.betas[0],
                                    .beta2 = c.betas[1],
                                    .eps = c.eps,
                                    .weight_decay = c.weight_decay,
                                    .step = made + 1},
                          .ema_decay = static_cast<float>(ema_decay(c, made + 1)),
                          .clip_norm = static_cast<float>(c.clip)});
  zero_.plan_update(candidates);
  if (!mode_.replays) return zero_.update();
  replays_.run(update_key, [&] { zero_.update_shard(); });
}

void Learner::start_step(bool stop, StepDump* dump) {
  STRATA_CHECK(std::ssize(under_way_) <= mode_.behind, "{} steps are under way", under_way_.size());
  const spans::Span span("step", "step", static_cast<int>(steps_ + 1));
  const double waited = loader_->wait_seconds();
  activity::at_step(steps_ + 1);
  UnderWay step{
      .step = ++steps_, .slot = static_cast<int>(steps_ % (mode_.behind + 1)), .stop = stop};
  zero_.begin_step(microbatches());
  for (int m = 0; m < microbatches(); ++m) run_microbatch(m, step, dump);

  activity::enter(activity::Section::verify);
  // Before the update: it gathers every weight anew, and what was wrong in this step would not
  // show.
  const std::int64_t every = config_.train.verify_every;
  if (every > 0 && steps_ % every == 0)
    check_replicas(communicator_, zero_.weights().flat(), fmt::format("step {}", steps_));

  activity::enter(activity::Section::update);
  update_weights();
  results_.take(step.slot, 0, zero_.decision());
  results_.close(step.slot);
  step.data_s = loader_->wait_seconds() - waited;
  under_way_.push_back(std::move(step));
}

StepOutcome Learner::finish(const UnderWay& step) {
  const spans::Span span("finish step", "step", static_cast<int>(step.step));
  for_tensors(between_devices_, communicator_).await(results_.moment(step.slot));
  const std::byte* result = results_.at(step.slot);
  const int ranks = communicator_.size();
  // One slot a lane and one for the stop: each is written by one rank, so the sum is exact and its
  // order below does not depend on the number of ranks.
  std::vector<double> lanes(step.weights.size() * static_cast<std::size_t>(ranks) + 1, 0.0);
  for (std::size_t m = 0; m < step.weights.size(); ++m) {
    double& lane = lanes[m * static_cast<std::size_t>(ranks) + communicator_.rank()];
    const auto* losses = reinterpret_cast<const float*>(
        result + ResultLayout(microbatch_, microbatches()).losses(static_cast<int>(m)));
    for (std::int64_t b = 0; b < microbatch_; ++b) lane += double{step.weights[m][b]} * losses[b];
  }
  lanes.back() = step.stop ? 1 : 0;
  communicator_.all_reduce_sum(lanes);
  const double sum = std::accumulate(lanes.begin(), lanes.end() - 1, 0.0);

  const StepStats stats = zero_.stats_of(ops::read_decision(result));
  if (stats.applied) ++updates_;
  return {.step = step.step,
          .loss = sum / static_cast<double>(config_.train.batch),
          .grad_norm = stats.grad_norm,
          .applied = stats.applied,
          .stop = lanes.back() > 0,
          .data_s = step.data_s,
          .comm_s = stats.wait_seconds};
}

std::vector<StepOutcome> Learner::finished_steps(bool all) {
  std::vector<StepOutcome> outcomes;
  while (std::ssize(under_way_) > (all ? 0 : mode_.behind)) {
    outcomes.push_back(finish(under_way_.front()));
    under_way_.pop_front();
    all = all || outcomes.back().stop;
  }
  return outcomes;
}

}  // namespace strata
