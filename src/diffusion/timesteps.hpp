#pragma once
// Which of the training timesteps a sampler visits, and the noise levels of the samplers that count
// in sigma = noise / signal instead.

#include <vector>

#include "diffusion/sampler_config.hpp"

namespace strata {

struct SpacingOptions {
  int steps = 0;
  int points = 0;      // of the grid (leading, linspace) from which the `steps` highest are taken
  int last = 0;        // timesteps lie below it
  bool whole = false;  // linspace is rounded
};

/// (steps) falling timesteps, spaced as numpy does it for diffusers (Lin et al. 2024, table 2).
std::vector<double> spaced_timesteps(const SamplerConfig& config, const SpacingOptions& options);

/// The schedule seen as sigmas. The values of fp32 arithmetic, held in double as numpy does after
/// its interpolation.
class SigmaTable {
 public:
  explicit SigmaTable(const NoiseSchedule& schedule);

  double smallest() const { return sigmas_.front(); }
  double largest() const { return sigmas_.back(); }
  /// Linear interpolation at a timestep, clamped to the ends.
  double at(double timestep) const;
  /// The timestep, between two, at which log(sigma) is reached.
  double timestep_of(double sigma) const;

 private:
  std::vector<float> sigmas_, logs_;  // (timesteps), rising
};

/// (steps) from `largest` to `smallest`: evenly in sigma^(1/7) (Karras et al. 2022, Eq. 5).
std::vector<double> karras_sigmas(double largest, double smallest, int steps);
/// (steps) from `largest` to `smallest`: evenly in log(sigma).
std::vector<double> exponential_sigmas(double largest, double smallest, int steps);

}  // namespace strata
