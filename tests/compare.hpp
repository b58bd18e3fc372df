#pragma once
// How far apart two tensors on the host are.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/buffer.hpp"

namespace strata::test {

struct Squares {
  double difference = 0, norm = 0;
};

/// |a - b|^2 and |b|^2.
inline Squares squares(Tensor a, Tensor b) {
  EXPECT_EQ(a.numel(), b.numel());
  Squares sum;
  for (std::int64_t i = 0; i < b.numel(); ++i) {
    const double x = a.as<float>()[i], y = b.as<float>()[i];
    sum.difference += (x - y) * (x - y);
    sum.norm += y * y;
  }
  return sum;
}

/// The root of their quotient; 0 / 0 is 0: both are nothing.
inline double ratio(double difference, double norm) {
  return difference == 0 && norm == 0 ? 0.0 : std::sqrt(difference / norm);
}

/// |a - b| / |b| in the Euclidean norm; NaN never passes a comparison.
inline double relative_l2(Tensor a, Tensor b) {
  const Squares sum = squares(a, b);
  return ratio(sum.difference, sum.norm);
}

/// The same shape and the same bits; two that hold nothing are alike.
inline bool same(Tensor a, Tensor b) {
  return a.shape == b.shape && (!a.data || std::memcmp(a.data, b.data, a.bytes()) == 0);
}

}  // namespace strata::test
