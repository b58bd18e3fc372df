#pragma once
// The peaks of this machine, measured once in the process that compares itself with them.

#include <chrono>

#include "core/peaks.hpp"

namespace strata {

inline double seconds_of(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// FLOP/s of the host on all threads.
inline double flops_peak(DType dtype) {
  const auto measure = [](DType type) {
    Exec exec;
    return compute_peak(exec, type);
  };
  static const double narrow = measure(DType::bf16), wide = measure(DType::f32);
  return dtype == DType::bf16 ? narrow : wide;
}
inline double bytes_peak() {
  static const double peak = [] {
    Exec exec;
    return copy_peak(exec);
  }();
  return peak;
}

}  // namespace strata
