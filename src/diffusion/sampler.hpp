#pragma once
// From noise to a latent: the loop's arithmetic, one small class a sampler. A sampler is driven as
//   x = initial_sigma() * noise;  for each step i: y = scale_input(i, x); x = step(i, x, model(y,
//   t_i))
// so that Euler and the multistep solvers fit the same loop.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffusion/schedule.hpp"

namespace strata {

enum class SamplerKind { ddim };

/// "ddim"; anything else is Error(64).
SamplerKind sampler_kind(std::string_view name);
std::string_view name_of(SamplerKind kind);

/// What a sampler reads from `scheduler_config.json`, and its noise schedule. The defaults are our
/// recipe: leading timesteps, offset 0, set_alpha_to_one false, as training's schedule has it.
struct SamplerConfig {
  enum class Spacing { leading, trailing, linspace };

  NoiseSchedule schedule;
  Spacing spacing = Spacing::leading;
  int steps_offset = 0;
  bool set_alpha_to_one = false;
  bool clip_sample = false;
  float clip_sample_range = 1.0f;

  /// `path`: a scheduler_config.json, its folder, or the pipeline folder that holds `scheduler/`. A
  /// missing key has the diffusers default of the sampler `kind`. Error(65) naming file and key for
  /// what is wrong or not supported.
  static SamplerConfig from_json_file(const std::string& path, SamplerKind kind);
  /// The config as diffusers' DDIMScheduler writes it, for an exported pipeline.
  std::string to_json() const;
};

class Sampler {
 public:
  virtual ~Sampler() = default;
  /// What the model is told at each step, (steps), falling.
  std::span<const float> timesteps() const { return timesteps_; }
  int steps() const { return static_cast<int>(timesteps_.size()); }
  /// The standard deviation of x before the first step.
  virtual float initial_sigma() const { return 1.0f; }
  /// y = what the model is to see of x at `step`; both (n) host f32. y may be x.
  virtual void scale_input(int step, std::span<float> y, std::span<const float> x) const;
  /// x (n) host f32, in place: from step's noise level to the next one's. model_output (n).
  /// Steps are taken in order from 0.
  virtual void step(int step, std::span<float> x, std::span<const float> model_output) = 0;

 protected:
  std::vector<float> timesteps_;
};

/// steps in [1, schedule.timesteps()], else Error(64).
std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const SamplerConfig& config, int steps);

/// prediction (n) = u + scale * (c - u): classifier-free guidance (Ho and Salimans 2022, eq. 6 with
/// scale = 1 + w). prediction may be u or c.
void guide(std::span<float> prediction, std::span<const float> unconditional,
           std::span<const float> conditional, float scale);

}  // namespace strata
