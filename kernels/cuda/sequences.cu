#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sequences.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    count_sequences_kernel(RaggedCounts to, AttentionShape shape, Sequences queries,
                           Sequences keys) {
  const std::int64_t b = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (b <= shape.batch) count_sequence(to, shape, queries, keys, b);
}

/// Elements [begin, end), n at a time, by the blocks of a grid's row.
template <int n, class T>
__device__ void zero(T* to, std::int64_t begin, std::int64_t end) {
  const Vec<T, n> zeros{};
  const std::int64_t step = std::int64_t{gridDim.x} * threads;
  for (std::int64_t i = begin / n + std::int64_t{blockIdx.x} * threads + threadIdx.x; i < end / n;
       i += step)
    zeros.store(to + i * n);
}

/// Grid (blocks a sequence, sequences).
template <int n, class T>
__global__ void __launch_bounds__(threads)
    zero_keyless_kernel(T* rows, Sequences queries, Sequences keys, std::int64_t width) {
  const std::int64_t b = blockIdx.y;
  if (keys.begin(b) != keys.begin(b + 1)) return;
  zero<n>(rows, queries.begin(b) * width, queries.begin(b + 1) * width);
}

template <int n, class T>
__global__ void __launch_bounds__(threads)
    zero_behind_kernel(T* rows, const std::int64_t* end, std::int64_t count, std::int64_t width) {
  zero<n>(rows, *end * width, count * width);
}

/// f(integral_constant n, elements of T) for the widest accesses that rows allow.
template <class F>
void with_rows(const Tensor& rows, std::int64_t width, F f) {
  with_type(rows.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(width, rows), [&](auto n) { f(n, rows.as<T>()); });
  });
}

}  // namespace

void count_sequences(cudaStream_t stream, const RaggedCounts& to, const AttentionShape& shape,
                     const Sequences& queries, const Sequences& keys) {
  count_sequences_kernel<<<blocks(ceil_div(shape.batch + 1, threads)), threads, 0, stream>>>(
      to, shape, queries, keys);
  STRATA_LAUNCHED("attention: counts");
}

void zero_keyless(cudaStream_t stream, const Tensor& rows, const Sequences& queries,
                  const Sequences& keys, std::int64_t batch) {
  if (rows.numel() == 0) return;
  constexpr unsigned a_sequence = 8;
  const std::int64_t width = rows.numel() / rows.shape[0];
  with_rows(rows, width, [&](auto n, auto* data) {
    zero_keyless_kernel<n>
        <<<dim3(a_sequence, grid_side(batch)), threads, 0, stream>>>(data, queries, keys, width);
  });
  STRATA_LAUNCHED("attention: rows without keys");
}

void zero_behind(cudaStream_t stream, const Tensor& rows, const Tensor& offsets) {
  if (rows.numel() == 0) return;
  constexpr unsigned grid = 64;
  const std::int64_t width = rows.numel() / rows.shape[0];
  const std::int64_t* end = offsets.as<std::int64_t>() + offsets.numel() - 1;
  with_rows(rows, width, [&](auto n, auto* data) {
    zero_behind_kernel<n><<<grid, threads, 0, stream>>>(data, end, rows.shape[0], width);
  });
  STRATA_LAUNCHED("attention: rows of nobody");
}

}  // namespace strata::cuda
