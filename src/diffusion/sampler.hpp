#pragma once
// From noise to a latent: the loop's arithmetic, one small class a sampler. A sampler is driven as
//   x = initial_sigma() * noise;
//   for each step i: y = scale_input(i, x); x = step(i, x, model(y, timesteps()[i]))

#include <memory>
#include <span>
#include <vector>

#include "diffusion/sampler_config.hpp"

namespace strata {

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

/// steps in [1, schedule.timesteps()] and as many as the config can space, else Error(64).
std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const SamplerConfig& config, int steps);

}  // namespace strata
