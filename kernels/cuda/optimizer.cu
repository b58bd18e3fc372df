// AdamW and what it needs of the gradient.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/math.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// Elements whose state one thread updates: 16-byte accesses of the f32 state.
constexpr int together = 4;

template <int n, class T>
__device__ void update(std::int64_t at, T* param, float* master, float* m, float* v,
                       const float* grad, float* ema, float ema_decay,
                       const portable::AdamWStep& step) {
  auto weight = Vec<float, n>::load(master + at), mean = Vec<float, n>::load(m + at);
  auto square = Vec<float, n>::load(v + at);
  const auto gradient = Vec<float, n>::load(grad + at);
  Vec<T, n> rounded;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    portable::adamw(weight.v[i], mean.v[i], square.v[i], gradient.v[i], step);
    rounded.v[i] = from_float<T>(weight.v[i]);
  }
  weight.store(master + at);
  mean.store(m + at);
  square.store(v + at);
  rounded.store(param + at);
  if (!ema) return;
  auto average = Vec<float, n>::load(ema + at);
#pragma unroll
  for (int i = 0; i < n; ++i)
    average.v[i] = ema_decay * average.v[i] + (1.0f - ema_decay) * weight.v[i];
  average.store(ema + at);
}

/// Wide groups first, then the elements that are left one by one.
template <class T>
__global__ void __launch_bounds__(threads)
    adamw_kernel(T* param, float* master, float* m, float* v, const float* grad, float* ema,
                 const portable::UpdateDecision* decision, std::int64_t groups,
                 std::int64_t count) {
  if (!decision->applied) return;
  const portable::AdamWStep step = decision->update.step;
  const float ema_decay = decision->update.ema_decay;
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < groups)
    return update<together>(i * together, param, master, m, v, grad, ema, ema_decay, step);
  const std::int64_t at = groups * together + i - groups;
  if (at < count) update<1>(at, param, master, m, v, grad, ema, ema_decay, step);
}

constexpr std::int64_t piece = 16384;

struct Stats {
  double squares;
  long long non_finite;
};

/// partial (sections, pieces): one block a piece of a section.
__global__ void __launch_bounds__(threads)
    gradient_stats_kernel(Stats* partial, const float* grad, std::int64_t section,
                          std::int64_t count) {
  const std::int64_t first = std::int64_t{blockIdx.y} * section;
  const std::int64_t begin = first + std::int64_t{blockIdx.x} * piece;
  const std::int64_t end = min(min(begin + piece, first + section), count);
  double sum = 0;
  long long bad = 0;
#pragma unroll 4
  for (std::int64_t i = begin + threadIdx.x; i < end; i += threads) {
    const bool finite = (__float_as_uint(grad[i]) & 0x7f800000u) != 0x7f800000u;
    const double value = finite ? grad[i] : 0.0f;
    sum += value * value;
    bad += !finite;
  }
  sum = block_sum<threads>(sum);
  bad = block_sum<threads>(bad);
  if (threadIdx.x == 0) partial[std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = {sum, bad};
}

/// squares (sections) = the sums over the pieces of partial (sections, pieces); one block a
/// section.
__global__ void __launch_bounds__(threads)
    join_stats_kernel(double* squares, double* non_finite, const Stats* partial,
                      std::int64_t pieces) {
  const Stats* from = partial + std::int64_t{blockIdx.x} * pieces;
  double sum = 0;
  long long bad = 0;
  for (std::int64_t i = threadIdx.x; i < pieces; i += threads) {
    sum += from[i].squares;
    bad += from[i].non_finite;
  }
  sum = block_sum<threads>(sum);
  bad = block_sum<threads>(bad);
  if (threadIdx.x > 0) return;
  squares[blockIdx.x] = sum;
  if (bad > 0) atomicAdd(non_finite, static_cast<double>(bad));  // whole numbers: any order
}

/// One thread: a few thousand sections in their order.
__global__ void decide_update_kernel(portable::UpdateDecision* decision,
                                     const portable::UpdateCandidates* candidates,
                                     const double* squares, std::int64_t sections,
                                     const double* non_finite) {
  portable::decide_update(*decision, *candidates, squares, sections, *non_finite);
}

}  // namespace

void CudaBackend::adamw(Exec&, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad,
                        Tensor ema, Tensor decision) {
  const std::int64_t count = master.numel();
  if (count == 0) return;
  // A group is 16 bytes of the state and, in bf16, 8 of the parameters.
  const bool aligned =
      is_wide(together, master, m, v, grad, ema) &&
      reinterpret_cast<std::uintptr_t>(param.data) % (together * size_of(param.dtype)) == 0;
  const std::int64_t groups = aligned ? count / together : 0;
  const std::int64_t work = groups + count - groups * together;
  with_type(param.dtype, [&](auto type) {
    using T = decltype(type);
    adamw_kernel<<<blocks(ceil_div(work, threads)), threads, 0, stream()>>>(
        param.as<T>(), master.as<float>(), m.as<float>(), v.as<float>(), grad.as<float>(),
        optional<float>(ema), reinterpret_cast<const portable::UpdateDecision*>(decision.data),
        groups, count);
    STRATA_LAUNCHED("adamw");
  });
}

void CudaBackend::gradient_stats(Exec& exec, Tensor squares, Tensor non_finite, Tensor grad,
                                 std::int64_t section) {
  const std::int64_t count = squares.numel();
  if (count == 0) return;
  const std::int64_t pieces = ceil_div(std::min(section, grad.numel()), piece);
  const ArenaScope scope(exec.arena);
  const auto bytes = static_cast<std::int64_t>(sizeof(Stats));
  auto* partial = reinterpret_cast<Stats*>(exec.empty(DType::u8, {count * pieces * bytes}).data);
  gradient_stats_kernel<<<dim3(blocks(pieces), grid_side(count)), threads, 0, stream()>>>(
      partial, grad.as<float>(), section, grad.numel());
  STRATA_LAUNCHED("gradient_stats");
  join_stats_kernel<<<blocks(count), threads, 0, stream()>>>(
      squares.as<double>(), non_finite.as<double>(), partial, pieces);
  STRATA_LAUNCHED("gradient_stats: join");
}

void CudaBackend::decide_update(Exec&, Tensor decision, Tensor candidates, Tensor squares,
                                Tensor non_finite) {
  decide_update_kernel<<<1, 1, 0, stream()>>>(
      reinterpret_cast<portable::UpdateDecision*>(decision.data),
      reinterpret_cast<const portable::UpdateCandidates*>(candidates.data), squares.as<double>(),
      squares.numel(), non_finite.as<double>());
  STRATA_LAUNCHED("decide_update");
}

}  // namespace strata::cuda
