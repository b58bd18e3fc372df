#pragma once

#include <string>

#include "core/device.hpp"
#include "core/error.hpp"

namespace strata::test {

/// Why nothing runs on a GPU here, in the words that CTest takes for a skipped test; "" where there
/// is one.
inline std::string missing_gpu() {
  try {
    cuda_device();
    return "";
  } catch (const Error& error) {
    return std::string("no GPU to test on: ") + error.what();
  }
}

}  // namespace strata::test
