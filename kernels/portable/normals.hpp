#pragma once
// Standard normals by Box and Muller (1958), bit for bit the same on every machine: only additions,
// multiplications, explicit fused multiply-adds, one correctly rounded square root and integers.
// The translation unit that includes this must be compiled with contraction off (-ffp-contract=off,
// nvcc -fmad=false).

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/rng.hpp"

namespace strata::portable {

/// ln(u) for u in [2^-33, 1], relative error < 2e-7.
STRATA_PORTABLE float exact_log(float u) {
  constexpr std::uint32_t sqrt_half = 0x3f3504f3u;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(u);
  const auto shift = static_cast<std::int32_t>(bits - sqrt_half) >> 23;  // u = m 2^shift
  const float m = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(shift) << 23));
  const float n = static_cast<float>(shift);
  const float f = m - 1.0f;  // in [sqrt(1/2) - 1, sqrt(2) - 1], exact
  float p = 0x1.1457a2p-4f;  // (ln(1+f) - f + f^2/2) / f^3, fit error 7.5e-10
  p = std::fma(p, f, -0x1.de3c14p-4f);
  p = std::fma(p, f, 0x1.e6f06cp-4f);
  p = std::fma(p, f, -0x1.fc2208p-4f);
  p = std::fma(p, f, 0x1.233768p-3f);
  p = std::fma(p, f, -0x1.555c4ep-3f);
  p = std::fma(p, f, 0x1.99a4b6p-3f);
  p = std::fma(p, f, -0x1.000006p-2f);
  p = std::fma(p, f, 0x1.555548p-2f);
  const float square = f * f;
  const float small = std::fma(n, 0x1.7f7d1cp-20f, std::fma(square * f, p, -0.5f * square));
  return std::fma(n, 0x1.62e4p-1f, f + small);
}

struct SinCos {
  float sin, cos;
};

/// sin and cos of 2 pi word / 2^32.
STRATA_PORTABLE SinCos exact_sincos(std::uint32_t word) {
  const std::uint32_t quadrant = (word + 0x20000000u) >> 30;
  const auto rest = static_cast<std::int32_t>(word - (quadrant << 30));  // in [-2^29, 2^29)
  const float x = static_cast<float>(rest) * 0x1.921fb6p-30f;            // |x| <= pi/4
  const float z = x * x;
  float s = -0x1.9943e2p-13f;  // fit error 3.8e-9
  s = std::fma(s, z, 0x1.11073ap-7f);
  s = std::fma(s, z, -0x1.555546p-3f);
  s = std::fma(s * z, x, x);
  float c = 0x1.99eb9cp-16f;  // fit error 1.2e-10
  c = std::fma(c, z, -0x1.6c0c34p-10f);
  c = std::fma(c, z, 0x1.55554ap-5f);
  c = std::fma(c * z, z, std::fma(z, -0.5f, 1.0f));
  const float a = quadrant & 1u ? c : s;
  const float b = quadrant & 1u ? s : c;
  return {quadrant & 2u ? -a : a, (quadrant + 1u) & 2u ? -b : b};
}

struct NormalPair {
  float first, second;
};

/// Two independent standard normals from two uniform words; |value| <= 6.77.
STRATA_PORTABLE NormalPair normal_pair(std::uint32_t radius_word, std::uint32_t angle_word) {
  const float u = std::fma(static_cast<float>(radius_word), 0x1p-32f, 0x1p-33f);  // (0, 1]
  const float log_u = exact_log(u);
  const float radius = std::sqrt(log_u < 0.0f ? -2.0f * log_u : 0.0f);
  const SinCos angle = exact_sincos(angle_word);
  return {radius * angle.cos, radius * angle.sin};
}

}  // namespace strata::portable
