#pragma once

#include "diffusion/sampler.hpp"

namespace strata {

/// DPM-Solver++ of order 1 or 2, multistep (Lu et al. 2022, arXiv 2211.01095, algorithm 2): the
/// clean picture is predicted and extrapolated in lambda = log(signal / noise).
class DpmSolver : public Sampler {
 public:
  DpmSolver(const SamplerConfig& config, int steps);
  void step(int step, std::span<float> x, std::span<const float> model_output) override;

 private:
  struct Level {
    float signal, noise, lambda;
  };
  /// x = keep x + clean m0 + slope (m0 - m1), with the clean pictures m0 of this step and m1 of
  /// the one before.
  struct Update {
    float keep, clean, slope;
  };
  bool is_first_order(int step) const;
  Update update_of(int step) const;

  Prediction prediction_;
  int order_;
  bool heun_, lower_order_final_, first_order_final_;
  std::vector<Level> levels_;    // (steps + 1), noise falling
  std::vector<float> previous_;  // (n) m1
};

}  // namespace strata
