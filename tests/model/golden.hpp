#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "core/safetensors.hpp"
#include "tests/compare.hpp"
#include "tests/test_files.hpp"

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

}  // namespace strata::test
