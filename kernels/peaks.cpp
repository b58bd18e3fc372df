// Peaks: of the host from loops of its own, of a device from ops.

#include "core/peaks.hpp"

#include <algorithm>
#include <chrono>

#include "kernels/host/peaks.hpp"
#include "kernels/ops.hpp"

namespace strata {

namespace {

/// Seconds of the fastest of some runs.
template <class F>
double fastest(Exec& exec, int runs, F work) {
  double best = 1e9;
  for (int run = 0; run < runs; ++run) {
    exec.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    work();
    exec.synchronize();
    const auto end = std::chrono::steady_clock::now();
    best = std::min(best, std::chrono::duration<double>(end - begin).count());
  }
  return best;
}

double matmul_peak(Exec& exec, DType dtype) {
  double best = 0;
  for (const std::int64_t n : {4096, 8192}) {
    const ArenaScope scope(exec.arena);
    const Tensor x = exec.empty(dtype, {n, n}), w = exec.empty(dtype, {n, n});
    const Tensor y = exec.empty(dtype, {n, n});
    ops::fill(exec, x, 0.5f);
    ops::fill(exec, w, 0.25f);
    const double flops = 2.0 * static_cast<double>(n * n * n);
    best = std::max(best, flops / fastest(exec, 8, [&] { ops::linear(exec, y, x, w); }));
  }
  exec.weights_changed();
  return best;
}

}  // namespace

double compute_peak(Exec& exec, DType dtype) {
  if (!(exec.device() == host_device)) return matmul_peak(exec, dtype);
  double work = 0;
  const double seconds =
      fastest(exec, 4, [&] { work = host::multiply_add(exec.threads(), dtype); });
  return work / seconds;
}

double copy_peak(Exec& exec) {
  constexpr std::int64_t count = std::int64_t{32} << 20;
  const ArenaScope scope(exec.arena);
  const Tensor from = exec.empty(DType::f32, {count}), to = exec.empty(DType::f32, {count});
  ops::fill(exec, from, 1.0f);
  ops::fill(exec, to, 1.0f);
  return 8.0 * count / fastest(exec, 6, [&] { ops::scale(exec, to, from, 2.0f); });
}

}  // namespace strata
