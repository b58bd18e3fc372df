#pragma once

#include "diffusion/sampler.hpp"

namespace strata {

/// Euler's method on the probability flow in sigma = noise / signal (Karras et al. 2022, algorithm
/// 1 without its second-order correction and without churn). x is the clean picture plus sigma
/// times noise.
class Euler : public Sampler {
 public:
  Euler(const SamplerConfig& config, int steps);
  float initial_sigma() const override { return initial_sigma_; }
  void scale_input(int step, std::span<float> y, std::span<const float> x) const override;
  void step(int step, std::span<float> x, std::span<const float> model_output) override;

 private:
  Prediction prediction_;
  std::vector<float> sigmas_;  // (steps + 1), falling
  float initial_sigma_ = 1;
};

}  // namespace strata
