#pragma once

#include <span>

namespace strata {

/// Classifier-free guidance (Ho and Salimans 2022, Eq. 6 with scale = 1 + w).
struct Guidance {
  float scale = 7.0f;
  /// How much of the conditional prediction's standard deviation the guided one is given back:
  /// phi of Lin et al. 2024, section 3.4; 0 = none.
  float rescale = 0.0f;

  bool is_on() const { return scale != 1.0f; }
};

/// prediction (n) = u + scale (c - u) for `count` pictures laid end to end, each then rescaled by
/// phi std(c) / std(prediction) + 1 - phi. prediction may be u, not c.
void guide(std::span<float> prediction, std::span<const float> unconditional,
           std::span<const float> conditional, Guidance guidance, int count);

}  // namespace strata
