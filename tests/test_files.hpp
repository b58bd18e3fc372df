#pragma once

#include <cstdlib>
#include <string>

namespace strata {

/// Where tests find tests/golden: in the repository, or, for a program that was carried elsewhere
/// (tools/gpu-check), in the folder that STRATA_TEST_FILES names.
inline std::string test_files() {
  const char* elsewhere = std::getenv("STRATA_TEST_FILES");
  return elsewhere ? elsewhere : STRATA_SOURCE_DIR;
}

}  // namespace strata
