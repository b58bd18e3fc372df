#pragma once
// Scalar formulas of both backends, each written once. No branches and no calls in the hot ones, so
// that a loop over them becomes vector code (with -fno-math-errno and -fno-trapping-math).
// Coefficients are minimax fits of our own (relative error of each fit in its comment;
// tests/kernels/math_test.cpp measures the whole).

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/rng.hpp"

namespace strata::portable {

/// x = n ln(2) + r with |r| <= ln(2)/2: 2^n, and exp(r) - 1.
struct ScaledExp {
  float scale, less_one;
};
STRATA_PORTABLE ScaledExp scaled_exp(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  constexpr float round = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const float shifted = x * 0x1.715476p0f + round;
  const float n = shifted - round;
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // |r| <= ln(2)/2; first part exact
  float p = 0x1.6a1a72p-10f;                                     // fit error 3.3e-9
  p = p * r + 0x1.123fc6p-7f;
  p = p * r + 0x1.555916p-5f;
  p = p * r + 0x1.55548ap-3f;
  p = p * r + 0x1.fffffcp-2f;
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(round);
  return {std::bit_cast<float>((exponent + 127u) << 23), (p * r) * r + r};
}

/// exp(x) to 2 ulp for x in [-87, 88]; outside, the value at the nearest end. NaN stays NaN.
STRATA_PORTABLE float exp(float x) {
  const ScaledExp e = scaled_exp(x);
  return (e.less_one + 1.0f) * e.scale;
}

/// tanh(x) to 4 ulp, from exp(-2|x|) - 1, which does not cancel near 0.
STRATA_PORTABLE float tanh(float x) {
  const ScaledExp e = scaled_exp(-2.0f * std::fabs(x));
  const float less_one = e.scale * e.less_one + (e.scale - 1.0f);
  return std::copysign(-less_one / (2.0f + less_one), x);
}

STRATA_PORTABLE float sigmoid(float x) {
  return 1.0f / (1.0f + exp(-x));
}

STRATA_PORTABLE float silu(float x) {
  return x * sigmoid(x);
}

/// d silu(x) / dx
STRATA_PORTABLE float silu_slope(float x) {
  const float e = exp(-x);
  const float s = 1.0f / (1.0f + e);
  return s * (1.0f + x * (e * s));  // e s is 1 - s without its cancellation
}

/// The standard normal's distribution function to 3 * 2^-24 absolute (as 0.5 + 0.5 erf in f32 has
/// it): 0.5 + x P(x^2) / Q(x^2) on |x| <= 5.6, beyond which it is 0 or 1 (fit error 9.3e-9).
STRATA_PORTABLE float normal_cdf(float x) {
  float a = x > 5.6f ? 5.6f : x;
  a = a < -5.6f ? -5.6f : a;
  const float u = a * a;
  float p = 0x1.7c720cp-26f;
  p = p * u + 0x1.aa9148p-18f;
  p = p * u + 0x1.6c942ap-13f;
  p = p * u + 0x1.347e18p-8f;
  p = p * u + 0x1.199b04p-5f;
  p = p * u + 0x1.98845p-2f;
  float q = 0x1.3ccda8p-20f;
  q = q * u + 0x1.3afd2ep-14f;
  q = q * u + 0x1.f5779cp-10f;
  q = q * u + 0x1.da266p-6f;
  q = q * u + 0x1.02e696p-2f;
  q = q * u + 1.0f;
  return 0.5f + a * p / q;
}

STRATA_PORTABLE float normal_density(float x) {
  return 0.3989422804f * exp(-0.5f * x * x);
}

STRATA_PORTABLE float gelu(float x) {
  return x * normal_cdf(x);
}

/// 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as x sigmoid(2u).
STRATA_PORTABLE float gelu_tanh(float x) {
  return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
}

STRATA_PORTABLE float quick_gelu(float x) {
  return x * sigmoid(1.702f * x);
}

/// gelu(x) and its derivative cdf + x density.
struct GeluAndSlope {
  float value, slope;
};
STRATA_PORTABLE GeluAndSlope gelu_and_slope(float x) {
  const float cdf = normal_cdf(x);
  return {x * cdf, cdf + x * normal_density(x)};
}

/// One element of AdamW with decoupled decay (Loshchilov & Hutter 2019, algorithm 2), in the order
/// of operations of torch.optim.AdamW. Its constants are computed once a step in double.
struct AdamWStep {
  float take1, keep2, take2;  // 1 - beta1, beta2, 1 - beta2
  float decay;                // 1 - lr weight_decay
  float size;                 // lr / (1 - beta1^step)
  float inverse_root, eps;    // 1 / sqrt(1 - beta2^step)
  float grad_scale;
};
STRATA_PORTABLE void adamw(float& master, float& m, float& v, float grad, const AdamWStep& s) {
  const float g = grad * s.grad_scale;
  m = m + (g - m) * s.take1;
  v = v * s.keep2 + g * g * s.take2;
  master = master * s.decay - s.size * m / (std::sqrt(v) * s.inverse_root + s.eps);
}

/// One of the updates that a step may turn out to make.
struct UpdateCandidate {
  AdamWStep step;
  float ema_decay;
};
/// All of them: the i-th holds if first + i updates were made before. grad_scale multiplies the
/// summed gradient; clip_norm 0: no clipping.
struct UpdateCandidates {
  static constexpr int most = 2;
  UpdateCandidate of[most];
  std::int64_t count, first;
  double grad_scale, clip_norm;
};
/// What a step does, decided from its gradient. `updates` counts those made, this one included.
struct UpdateDecision {
  UpdateCandidate update;
  std::int64_t updates, applied;
  double grad_norm, non_finite;  // of the scaled gradient before clipping; elements
};
/// squares (sections): of the unscaled gradient, added up in their order. decision.updates comes in
/// as it was before.
STRATA_PORTABLE void decide_update(UpdateDecision& decision, const UpdateCandidates& candidates,
                                   const double* squares, std::int64_t sections,
                                   double non_finite) {
  double total = 0;
  for (std::int64_t i = 0; i < sections; ++i) total += squares[i];
  std::int64_t which = decision.updates - candidates.first;
  which = which < 0 ? 0 : which >= candidates.count ? candidates.count - 1 : which;
  decision.update = candidates.of[which];
  decision.grad_norm = std::fabs(candidates.grad_scale) * std::sqrt(total);
  decision.non_finite = non_finite;
  decision.applied = non_finite == 0;
  decision.updates = candidates.first + which + decision.applied;
  const bool clip = candidates.clip_norm > 0 && decision.grad_norm > candidates.clip_norm;
  const double factor = clip ? candidates.clip_norm / decision.grad_norm : 1.0;
  decision.update.step.grad_scale = static_cast<float>(candidates.grad_scale * factor);
}

/// IEEE half to float, exact.
STRATA_PORTABLE float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  // Exponent and mantissa moved into place, then rescaled by 2^(127 - 15): exact for subnormals
  // too.
  const float finite = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  const std::uint32_t bits = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude & 0x3ffu) << 13
                                                  : std::bit_cast<std::uint32_t>(finite);
  return std::bit_cast<float>(bits | sign);
}

}  // namespace strata::portable
