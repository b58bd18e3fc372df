#include "train/step.hpp"

#include <numeric>
#include <vector>

#include "core/activity.hpp"
#include "core/transfer.hpp"
#include "dist/device_communicator.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"
#include "train/conditioning.hpp"
#include "train/latents.hpp"
#include "train/provenance.hpp"
#include "train/replicas.hpp"
#include "train/setup.hpp"

namespace strata {

namespace {
/// What gradients travel over; none on the host, where the communicator itself does it.
std::unique_ptr<Communicator> connect(Communicator& communicator, Device device) {
  if (device == host_device) return nullptr;
  return std::make_unique<DeviceCommunicator>(communicator, device);
}
}  // namespace

Learner::Learner(const TrainConfig& config, Communicator& communicator)
    : config_(config),
      communicator_(communicator),
      key_{static_cast<std::uint64_t>(config.train.seed)},
      microbatch_(microbatch_of(config, communicator.size())),
      exec_(device_of(config, communicator), static_cast<int>(config.train.threads)),
      between_devices_(connect(communicator, exec_.device())),
      caches_(open_caches(config)),
      latents_hash_(cache_hash(config.data.latents)),
      text_hash_(cache_hash(config.data.text)),
      schedule_(schedule_of(config.diffusion)),
      unet_(resolve_unet(config, caches_)),
      zero_(exec_, between_devices_ ? *between_devices_ : communicator, unet_.parameters(),
            zero2_options(config)) {}

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

StepOutcome Learner::step(bool stop, StepDump* dump) {
  const auto& c = config_.train;
  const int ranks = communicator_.size();
  const int microbatches = static_cast<int>(c.batch / (microbatch_ * ranks));
  const DType dtype = compute_dtype(config_);
  const double waited = loader_->wait_seconds();
  // One slot a lane and one for the stop: each is written by one rank, so the sum is exact and its
  // order below does not depend on the number of ranks.
  std::vector<double> lanes(static_cast<std::size_t>(microbatches) * ranks + 1, 0.0);

  activity::at_step(steps_ + 1);
  zero_.begin_step(microbatches);
  for (int m = 0; m < microbatches; ++m) {
    activity::enter(activity::Section::data);
    const ArenaScope scope(exec_.arena);
    const Batch batch = loader_->next();
    activity::enter(activity::Section::step);
    const Conditioning caption =
        make_conditioning(exec_, batch, dtype, key_, c.caption_drop, config_.data.pooled);
    const Tensor latents = draw_latents(exec_, key_, batch, batch.epochs);
    const NoisedBatch noised =
        add_noise_to(exec_, schedule_, key_, batch.samples, batch.epochs, latents,
                     {.min_snr_gamma = config_.diffusion.min_snr_gamma, .dtype = dtype});

    UNet::Saved saved{.recompute = c.recompute};
    const Tensor prediction = unet_.forward(exec_, zero_.weights(), noised.sample, noised.timesteps,
                                            caption.text, caption.pooled, &saved);

    const Tensor loss = exec_.empty(DType::f32, {microbatch_});
    const Tensor dprediction = exec_.empty(dtype, prediction.shape);
    ops::mse_loss(exec_, loss, dprediction, prediction, noised.target, noised.weight,
                  1.0f / static_cast<float>(c.batch));

    unet_.backward(exec_, zero_.weights(), zero_, saved, dprediction);
    zero_.end_microbatch();

    double& lane = lanes[static_cast<std::size_t>(m) * ranks + communicator_.rank()];
    const std::vector<float> weights = to_host(noised.weight), losses = to_host(loss);
    for (std::int64_t b = 0; b < microbatch_; ++b) lane += double{weights[b]} * losses[b];
    if (dump) dump->add(batch, latents, noised, caption, loss);
  }

  activity::enter(activity::Section::verify);
  // Before the update: it gathers every weight anew, and what was wrong in this step would not
  // show.
  if (c.verify_every > 0 && (steps_ + 1) % c.verify_every == 0)
    check_replicas(communicator_, zero_.weights().flat(), fmt::format("step {}", steps_ + 1));

  activity::enter(activity::Section::update);
  lanes.back() = stop ? 1 : 0;
  communicator_.all_reduce_sum(lanes);
  const double sum = std::accumulate(lanes.begin(), lanes.end() - 1, 0.0);

  ++steps_;
  UpdateOptions update;
  update.adamw.lr = learning_rate(c, steps_);
  update.adamw.beta1 = c.betas[0];
  update.adamw.beta2 = c.betas[1];
  update.adamw.eps = c.eps;
  update.adamw.weight_decay = c.weight_decay;
  update.adamw.step = updates_ + 1;
  update.ema_decay = static_cast<float>(ema_decay(c, updates_ + 1));
  update.clip_norm = static_cast<float>(c.clip);
  update.before_change = before_change_;
  const StepStats stats = zero_.update(update);
  if (stats.applied) ++updates_;

  return {.loss = sum / static_cast<double>(c.batch),
          .grad_norm = stats.grad_norm,
          .applied = stats.applied,
          .stop = lanes.back() > 0,
          .data_s = loader_->wait_seconds() - waited,
          .comm_s = stats.wait_seconds};
}

}  // namespace strata
