#pragma once
// Rows of scores on their way through a softmax.

#include <algorithm>
#include <array>

#include "core/tensor.hpp"
#include "kernels/host/tile.hpp"
#include "kernels/portable/math.hpp"

namespace strata::host {

/// 0, 1, 2, ...: a comparison with it is a mask. (Comparing the loop's counter itself makes the
/// compiler split the loop in two, the second scalar.)
inline constexpr auto positions = [] {
  std::array<float, lane> all{};
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>(i);
  return all;
}();

/// Turns a row of scores into exp(score - shift), zeros after `count` up to `padded`; their sum.
/// Works on whole lanes, in which scores after `count` are finite.
inline float exponentiate(float* row, std::int64_t count, std::int64_t padded, float shift) {
  const std::int64_t whole = count / lane * lane;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < whole; ++i) {
    row[i] = portable::exp(row[i] - shift);
    sum += row[i];
  }
  if (whole < count) {
    const auto end = static_cast<float>(count - whole);
    float* last = row + whole;
#pragma omp simd reduction(+ : sum)
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const float e = portable::exp(last[i] - shift);
      last[i] = positions[i] < end ? e : 0.0f;
      sum += last[i];
    }
  }
  std::fill(row + round_up(count, lane), row + padded, 0.0f);
  return sum;
}

/// Of the first `count` scores and `largest`; whole lanes are read.
inline float maximum(const float* row, std::int64_t count, float largest) {
  const std::int64_t whole = count / lane * lane;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < whole; ++i) largest = row[i] > largest ? row[i] : largest;
  if (whole < count) {
    const auto end = static_cast<float>(count - whole);
    const float* last = row + whole;
#pragma omp simd reduction(max : largest)
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const float score = positions[i] < end ? last[i] : -1e38f;
      largest = score > largest ? score : largest;
    }
  }
  return largest;
}

inline void cap_scores(float* row, std::int64_t count, float cap) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) row[i] = cap * portable::tanh(row[i] / cap);
}

}  // namespace strata::host
