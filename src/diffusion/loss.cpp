#include "diffusion/loss.hpp"

#include <vector>

#include "kernels/ops.hpp"

namespace strata {

namespace {

std::uint32_t first_word(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, Purpose purpose) {
  return random_block(key, {static_cast<std::uint64_t>(sample), epoch, purpose}, 0)[0];
}

/// A (B) f32 tensor in the arena, from values computed on the host.
Tensor upload(Exec& exec, const std::vector<float>& values) {
  const Tensor to = exec.empty(DType::f32, {static_cast<std::int64_t>(values.size())});
  memory::copy(to.data, to.device, values.data(), host_device, to.bytes());
  return to;
}

}  // namespace

int draw_timestep(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, int timesteps) {
  return static_cast<int>(
      uniform_below(first_word(key, sample, epoch, Purpose::timestep), timesteps));
}

bool draw_caption_drop(PhiloxKey key, std::int64_t sample, std::uint32_t epoch,
                       double probability) {
  return uniform01(first_word(key, sample, epoch, Purpose::caption_drop)) < probability;
}

NoisePlan plan_noise(const NoiseSchedule& schedule, PhiloxKey key,
                     std::span<const std::int64_t> samples, std::span<const std::uint32_t> epochs,
                     const NoiseOptions& options) {
  STRATA_CHECK(epochs.size() == samples.size());
  STRATA_CHECK(options.timesteps.empty() || options.timesteps.size() == samples.size());
  NoisePlan plan;
  for (std::size_t b = 0; b < samples.size(); ++b) {
    const int t = options.timesteps.empty()
                      ? draw_timestep(key, samples[b], epochs[b], schedule.timesteps())
                      : options.timesteps[b];
    plan.at.push_back({static_cast<std::uint64_t>(samples[b]), epochs[b], Purpose::noise});
    plan.timesteps.push_back(static_cast<float>(t));
    plan.signal.push_back(schedule.signal(t));
    plan.noise.push_back(schedule.noise(t));
    plan.target_signal.push_back(schedule.target_signal(t));
    plan.target_noise.push_back(schedule.target_noise(t));
    plan.weight.push_back(schedule.min_snr_weight(t, options.min_snr_gamma));
  }
  return plan;
}

NoisedBatch add_noise_to(Exec& exec, Prediction prediction, PhiloxKey key, const NoiseInput& input,
                         Tensor latents, DType dtype) {
  const Shape nchw = latents.shape;
  STRATA_CHECK(nchw.rank() == 4);
  NoisedBatch out;
  out.timesteps = input.timesteps;
  out.weight = input.weight;
  out.noise = exec.empty(DType::f32, nchw);
  out.noisy = exec.empty(DType::f32, nchw);
  const Shape nhwc{nchw[0], nchw[2], nchw[3], nchw[1]};
  out.sample = exec.empty(dtype, nhwc);
  out.target = exec.empty(DType::f32, nhwc);

  ops::normals(exec, out.noise, key, input.at);
  ops::add_noise(exec, out.noisy, latents, out.noise, input.signal, input.noise);
  ops::nchw_to_nhwc(exec, out.sample, out.noisy);
  Tensor target = out.noise;
  if (prediction != Prediction::epsilon) {
    target = exec.empty(DType::f32, nchw);
    ops::add_noise(exec, target, latents, out.noise, input.target_signal, input.target_noise);
  }
  ops::nchw_to_nhwc(exec, out.target, target);
  return out;
}

NoisedBatch add_noise_to(Exec& exec, const NoiseSchedule& schedule, PhiloxKey key,
                         std::span<const std::int64_t> samples,
                         std::span<const std::uint32_t> epochs, Tensor latents,
                         const NoiseOptions& options) {
  const NoisePlan plan = plan_noise(schedule, key, samples, epochs, options);
  const NoiseInput input{.at = counters(plan.at),
                         .timesteps = upload(exec, plan.timesteps),
                         .signal = upload(exec, plan.signal),
                         .noise = upload(exec, plan.noise),
                         .target_signal = upload(exec, plan.target_signal),
                         .target_noise = upload(exec, plan.target_noise),
                         .weight = upload(exec, plan.weight)};
  return add_noise_to(exec, schedule.config().prediction, key, input, latents, options.dtype);
}

}  // namespace strata
