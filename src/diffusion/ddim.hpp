#pragma once

#include "diffusion/sampler.hpp"

namespace strata {

/// DDIM with eta = 0 (Song et al. 2021, eq. 12): deterministic.
class Ddim : public Sampler {
 public:
  Ddim(const SamplerConfig& config, int steps);
  void step(int step, std::span<float> x, std::span<const float> model_output) override;

 private:
  SamplerConfig config_;
  std::vector<float> alpha_, next_alpha_;  // (steps) alpha_bar at a step's timestep and after it
};

}  // namespace strata
