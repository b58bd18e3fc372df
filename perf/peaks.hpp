#pragma once
// The peaks of this machine, measured in the process that compares itself with them.

#include <benchmark/benchmark.h>
#include <omp.h>

#include <algorithm>
#include <chrono>

#include "core/buffer.hpp"

namespace strata {

inline double seconds_of(auto&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// FLOP/s of independent chains of multiply-adds in registers, all threads.
inline double multiply_add_peak() {
  using Vector = float __attribute__((vector_size(64)));
  constexpr int chains = 12, rounds = 4'000'000;
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const double seconds = seconds_of([&] {
#pragma omp parallel
      {
        Vector sum[chains], factor = Vector{} + 0.999f;
        for (int c = 0; c < chains; ++c) sum[c] = Vector{} + static_cast<float>(c);
        benchmark::DoNotOptimize(sum);  // equal chains would be computed once
        for (int i = 0; i < rounds; ++i)
          for (auto& s : sum) s = s * factor + factor;
        Vector total{};
        for (const auto& s : sum) total += s;
        benchmark::DoNotOptimize(total);
      }
    });
    best = std::max(best, 2.0 * 16 * chains * rounds * omp_get_max_threads() / seconds);
  }
  return best;
}

/// Bytes per second (read and written) of copying 128 MiB, all threads.
inline double copy_peak() {
  const std::int64_t size = std::int64_t{32} << 20;
  Buffer from = Buffer::zeros(DType::f32, {size}), to = Buffer::zeros(DType::f32, {size});
  const float* source = from.as<float>();
  float* target = to.as<float>();
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const double seconds = seconds_of([&] {
#pragma omp parallel for
      for (std::int64_t i = 0; i < size; ++i) target[i] = source[i] + 1.0f;
    });
    best = std::max(best, 8.0 * static_cast<double>(size) / seconds);
  }
  return best;
}

inline double flops_peak() {
  static const double peak = multiply_add_peak();
  return peak;
}
inline double bytes_peak() {
  static const double peak = copy_peak();
  return peak;
}

}  // namespace strata
