#pragma once
// One microbatch of the denoising objective. Everything random is a pure function of (seed, sample,
// epoch, purpose): neither ranks nor resumes can change it.

#include <cstdint>
#include <optional>
#include <span>

#include "core/exec.hpp"
#include "core/rng.hpp"
#include "diffusion/schedule.hpp"

namespace strata {

/// Uniform in [0, timesteps).
int draw_timestep(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, int timesteps);
/// True with this probability: the sample is then trained without its caption.
bool draw_caption_drop(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, double probability);

/// A microbatch ready for the U-Net; all tensors live in exec.arena.
struct NoisedBatch {
  Tensor noise;      // (B,C,h,w) f32, standard normal
  Tensor timesteps;  // (B) f32
  Tensor noisy;      // (B,C,h,w) f32 = signal x_0 + noise eps
  Tensor sample;     // (B,h,w,C) T, `noisy` as the U-Net takes it
  Tensor target;     // (B,h,w,C) f32
  Tensor weight;     // (B) f32, min-SNR weights (1 without)
};

struct NoiseOptions {
  double min_snr_gamma = 0;             // 0: off
  DType dtype = DType::f32;             // T
  std::span<const int> timesteps = {};  // fixed ones (validation) in place of the drawn
};

/// latents (B,C,h,w) f32, scaled; samples and epochs (B).
NoisedBatch add_noise_to(Exec& exec, const NoiseSchedule& schedule, PhiloxKey key,
                         std::span<const std::int64_t> samples,
                         std::span<const std::uint32_t> epochs, Tensor latents,
                         const NoiseOptions& options);

}  // namespace strata
