#include "train/setup.hpp"

#include <algorithm>

#include "dist/device_communicator.hpp"
#include "model/weights.hpp"

namespace strata {

namespace {

void resolve_text(const TrainConfig& config, const CacheSet& caches, UNetConfig& unet) {
  const auto dim = caches.text_dim();
  const auto& projection = config.model.text_projection;
  if (config.model.init.empty() && unet.encoder_hid_dim == 0) {
    const bool differs = dim != unet.cross_attention_dim;
    if (projection == "always" || (projection == "auto" && differs)) unet.encoder_hid_dim = dim;
  }
  if (unet.text_dim() != dim)
    fail(Exit::mismatch, "{}: embeddings of width {}, but the U-Net takes {}", config.data.text,
         dim, unet.text_dim());
}

void resolve_pooled(const TrainConfig& config, const CacheSet& caches, UNetConfig& unet) {
  if (!config.data.pooled) {
    if (unet.pooled_dim != 0)
      fail(Exit::mismatch, "data.pooled: false, but the U-Net takes a pooled vector of width {}",
           unet.pooled_dim);
    return;
  }
  const auto dim = caches.pooled_dim();
  if (dim == 0)
    fail(Exit::mismatch,
         "{}: no pooled vectors (data.pooled is true); make the cache with --pooled",
         config.data.text);
  if (config.model.init.empty() && unet.pooled_dim == 0) unet.pooled_dim = dim;
  if (unet.pooled_dim != dim)
    fail(Exit::mismatch, "{}: pooled vectors of width {}, but the U-Net takes {}", config.data.text,
         dim, unet.pooled_dim);
}

}  // namespace

CacheSet open_caches(const TrainConfig& config) {
  CacheSet::Options options;
  options.holdout = {config.validation.fraction, config.validation.count, 0};
  options.also_in = config.data.also_in;
  return CacheSet::open(config.data.latents, config.data.text, options);
}

UNetConfig configured_unet(const TrainConfig& config) {
  // Training from random weights needs no weight file, and its projection has no bias.
  const auto& fresh = config.model.unet;
  if (!config.model.init.empty())
    return UNetConfig::from_folder(module_folder(config.model.init, "unet"));
  return UNetConfig::from_json_file(
      fresh.ends_with(".json") ? fresh : module_folder(fresh, "unet") + "/config.json");
}

UNetConfig resolve_unet(const TrainConfig& config, const CacheSet& caches) {
  UNetConfig unet = configured_unet(config);
  if (unet.in_channels != unet.out_channels || unet.in_channels != caches.latent_shape()[0])
    fail(Exit::mismatch, "{}: latents of {} channels, but the U-Net has {} in and {} out",
         config.data.latents, caches.latent_shape()[0], unet.in_channels, unet.out_channels);
  unet.sample_height = caches.latent_shape()[1];
  unet.sample_width = caches.latent_shape()[2];
  resolve_text(config, caches, unet);
  resolve_pooled(config, caches, unet);
  return unet;
}

NoiseSchedule schedule_of(const DiffusionConfig& config) {
  ScheduleConfig c;
  c.timesteps = static_cast<int>(config.timesteps);
  for (const auto schedule :
       {BetaSchedule::scaled_linear, BetaSchedule::linear, BetaSchedule::squaredcos_cap_v2})
    if (config.beta_schedule == name_of(schedule)) c.beta_schedule = schedule;
  c.beta_start = config.beta_start;
  c.beta_end = config.beta_end;
  c.zero_terminal_snr = config.zero_terminal_snr;
  c.prediction = config.prediction == "epsilon" ? Prediction::epsilon : Prediction::v_prediction;
  return NoiseSchedule(c);
}

Device device_of(const TrainConfig& config, const Communicator& communicator) {
  if (config.train.device == "host") return host_device;
  return cuda_device(communicator.local_rank(), communicator.local_size());
}

std::unique_ptr<Communicator> connect_devices(Communicator& communicator, Device device) {
  if (device == host_device) return nullptr;
  return std::make_unique<DeviceCommunicator>(communicator, device);
}

DType compute_dtype(const TrainConfig& config) {
  return config.train.precision == "bf16" ? DType::bf16 : DType::f32;
}

Zero2Options zero2_options(const TrainConfig& config) {
  Zero2Options o;
  o.compute = compute_dtype(config);
  o.wire = config.train.reduce == "bf16" ? DType::bf16 : DType::f32;
  o.bucket_bytes = static_cast<std::int64_t>(config.train.bucket_mb * 1e6);
  o.reduction = config.train.reduction == "tree" ? Reduction::tree : Reduction::ordered;
  o.overlap = config.train.overlap;
  o.ema = config.train.ema_decay > 0;
  return o;
}

std::int64_t microbatch_of(const TrainConfig& config, int ranks) {
  validate(config, ranks);
  const auto per_rank = config.train.batch / ranks;
  const auto microbatch = std::min(config.train.microbatch, per_rank);
  if (per_rank % microbatch != 0)
    fail(Exit::usage, "train.batch: {} images a rank are not divisible by train.microbatch {}",
         per_rank, microbatch);
  return microbatch;
}

}  // namespace strata
