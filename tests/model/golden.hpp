#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "../test_files.hpp"
#include "core/safetensors.hpp"

namespace strata::test {

inline std::string golden(const std::string& path) {
  return test_files() + "/tests/golden/" + path;
}

/// The corners of the U-Net's config space, in name order.
inline std::vector<std::string> golden_unets() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden("unet")))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

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

}  // namespace strata::test
