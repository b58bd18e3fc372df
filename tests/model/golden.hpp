#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "core/safetensors.hpp"

namespace strata::test {

inline std::string golden(const std::string& path) {
  return std::string(STRATA_SOURCE_DIR) + "/tests/golden/" + path;
}

/// The corners of the U-Net's config space, in name order.
inline std::vector<std::string> golden_unets() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden("unet")))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// |a - b| / |b| in the Euclidean norm; NaN never passes a comparison.
inline double relative_l2(Tensor a, Tensor b) {
  EXPECT_EQ(a.numel(), b.numel());
  double difference = 0, norm = 0;
  for (std::int64_t i = 0; i < b.numel(); ++i) {
    const double x = a.as<float>()[i], y = b.as<float>()[i];
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / norm);
}

}  // namespace strata::test
