#pragma once
// One microbatch of the denoising objective. Everything random is a pure function of (seed, sample,
// epoch, purpose): neither ranks nor resumes can change it.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/exec.hpp"
#include "core/rng.hpp"
#include "diffusion/schedule.hpp"

namespace strata {

/// Uniform in [0, timesteps).
int draw_timestep(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, int timesteps);
/// True with this probability: the sample is then trained without its caption.
bool draw_caption_drop(PhiloxKey key, std::int64_t sample, std::uint32_t epoch, double probability);

/// (B,2) i64 on the host, as ops::normals takes them; at is kept alive by the caller.
inline Tensor counters(std::span<const PhiloxCounter> at) {
  return view_of(reinterpret_cast<const std::int64_t*>(at.data()),
                 {static_cast<std::int64_t>(at.size()), 2});
}

struct NoiseOptions {
  double min_snr_gamma = 0;             // 0: off
  DType dtype = DType::f32;             // T
  std::span<const int> timesteps = {};  // fixed ones (validation) in place of the drawn
};

/// What the noise of a microbatch is made from, one element a sample.
struct NoisePlan {
  std::vector<PhiloxCounter> at;
  std::vector<float> timesteps;
  std::vector<float> signal, noise;                // noisy = signal x_0 + noise eps
  std::vector<float> target_signal, target_noise;  // target likewise
  std::vector<float> weight;                       // min-SNR weights (1 without)
};
NoisePlan plan_noise(const NoiseSchedule& schedule, PhiloxKey key,
                     std::span<const std::int64_t> samples, std::span<const std::uint32_t> epochs,
                     const NoiseOptions& options);

/// A plan where ops find it: at (B,2) i64, all else (B) f32.
struct NoiseInput {
  Tensor at, timesteps, signal, noise, target_signal, target_noise, weight;
};

/// A microbatch ready for the U-Net; all that is made here lives in exec.arena.
struct NoisedBatch {
  Tensor noise;      // (B,C,h,w) f32, standard normal
  Tensor timesteps;  // (B) f32
  Tensor noisy;      // (B,C,h,w) f32
  Tensor sample;     // (B,h,w,C) T, `noisy` as the U-Net takes it
  Tensor target;     // (B,h,w,C) f32
  Tensor weight;     // (B) f32
};

/// latents (B,C,h,w) f32, scaled.
NoisedBatch add_noise_to(Exec& exec, Prediction prediction, PhiloxKey key, const NoiseInput& input,
                         Tensor latents, DType dtype);
/// The same from samples and epochs (B) on the host.
NoisedBatch add_noise_to(Exec& exec, const NoiseSchedule& schedule, PhiloxKey key,
                         std::span<const std::int64_t> samples,
                         std::span<const std::uint32_t> epochs, Tensor latents,
                         const NoiseOptions& options);

}  // namespace strata
