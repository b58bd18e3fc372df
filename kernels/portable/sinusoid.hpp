#pragma once

#include <cmath>
#include <cstdint>

#include "core/rng.hpp"

namespace strata::portable {

/// exp(-ln(10000) i / (half - freq_shift)), in the order of operations of diffusers' Timesteps.
STRATA_PORTABLE float timestep_frequency(std::int64_t i, std::int64_t half, float freq_shift) {
  const float exponent = -9.210340371976184f * static_cast<float>(i);
  return std::exp(exponent / (static_cast<float>(half) - freq_shift));
}

}  // namespace strata::portable
