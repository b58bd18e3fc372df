#include "diffusion/sampler.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "diffusion/ddim.hpp"
#include "diffusion/dpm_solver.hpp"
#include "diffusion/euler.hpp"

namespace strata {

void Sampler::scale_input(int, std::span<float> y, std::span<const float> x) const {
  if (y.data() != x.data()) std::copy(x.begin(), x.end(), y.begin());
}

std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const SamplerConfig& config, int steps) {
  if (steps < 1 || steps > config.schedule.timesteps())
    fail(Exit::usage, "steps: {} is not in 1..{}", steps, config.schedule.timesteps());
  switch (kind) {
    case SamplerKind::ddim:
      return std::make_unique<Ddim>(config, steps);
    case SamplerKind::euler:
      return std::make_unique<Euler>(config, steps);
    case SamplerKind::dpmpp_2m:
      return std::make_unique<DpmSolver>(config, steps);
  }
  fail(Exit::internal, "no such sampler");
}

}  // namespace strata
