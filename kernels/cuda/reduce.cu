#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/reduce.cuh"

namespace strata::cuda {

namespace {

constexpr int lanes = 32;        // column groups that a block works on at once
constexpr int layers = 8;        // rows that a block of the first pass works on at once,
constexpr int join_layers = 32;  // and of the second

/// Sums `value` over threadIdx.y, in its order; the result is right where threadIdx.y is 0.
template <int count, int n>
__device__ void sum_layers(float (&value)[n]) {
  __shared__ float shared[count][n][lanes];
#pragma unroll
  for (int i = 0; i < n; ++i) shared[threadIdx.y][i][threadIdx.x] = value[i];
  __syncthreads();
  if (threadIdx.y > 0) return;
#pragma unroll
  for (int i = 0; i < n; ++i)
#pragma unroll
    for (int layer = 1; layer < count; ++layer) value[i] += shared[layer][i][threadIdx.x];
}

/// partial (segments, chunks, width); grid (column groups, chunks, segments).
template <int n, class T>
__global__ void __launch_bounds__(lanes* layers)
    sum_rows_kernel(float* partial, const T* x, std::int64_t rows, std::int64_t width) {
  const std::int64_t column = (std::int64_t{blockIdx.x} * lanes + threadIdx.x) * n;
  const std::int64_t first = std::int64_t{blockIdx.y} * sum_rows_chunk;
  const std::int64_t end = min(first + sum_rows_chunk, rows);
  const T* from = x + std::int64_t{blockIdx.z} * rows * width + column;
  float sum[n] = {};
  if (column < width)
#pragma unroll 4
    for (std::int64_t row = first + threadIdx.y; row < end; row += layers) {
      const auto values = Vec<T, n>::load(from + row * width);
#pragma unroll
      for (int i = 0; i < n; ++i) sum[i] += to_float(values.v[i]);
    }
  sum_layers<layers>(sum);
  if (threadIdx.y > 0 || column >= width) return;
  float* to = partial + (std::int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * width + column;
#pragma unroll
  for (int i = 0; i < n; ++i) to[i] = sum[i];
}

/// to (segments, width) = or += sums over the chunks; grid (column groups, segments).
template <bool accumulate, class T>
__global__ void __launch_bounds__(lanes* join_layers) join_kernel(T* to, Partials p) {
  const std::int64_t column = std::int64_t{blockIdx.x} * lanes + threadIdx.x;
  const float* from = p.data + std::int64_t{blockIdx.y} * p.chunks * p.pitch + column;
  float sum[1] = {};
  if (column < p.width)
#pragma unroll 4
    for (std::int64_t chunk = threadIdx.y; chunk < p.chunks; chunk += join_layers)
      sum[0] += from[chunk * p.pitch];
  sum_layers<join_layers>(sum);
  if (threadIdx.y > 0 || column >= p.width) return;
  T& target = to[std::int64_t{blockIdx.y} * p.width + column];
  target = from_float<T>(accumulate ? to_float(target) + sum[0] : sum[0]);
}

template <bool accumulate, class T>
void join(cudaStream_t stream, T* to, const Partials& p) {
  if (p.segments == 0 || p.width == 0) return;
  const dim3 grid(blocks(ceil_div(p.width, lanes)), grid_side(p.segments));
  join_kernel<accumulate><<<grid, dim3(lanes, join_layers), 0, stream>>>(to, p);
  STRATA_LAUNCHED("join");
}

}  // namespace

void add_partials(cudaStream_t stream, float* to, const Partials& partials) {
  join<true>(stream, to, partials);
}

void store_partials(cudaStream_t stream, const Tensor& to, const Partials& partials) {
  with_type(to.dtype, [&](auto type) { join<false>(stream, to.as<decltype(type)>(), partials); });
}

Partials sum_rows(Exec& exec, cudaStream_t stream, const Tensor& x, std::int64_t segments,
                  std::int64_t rows) {
  const std::int64_t width = x.shape[-1], chunks = ceil_div(rows, sum_rows_chunk);
  const Tensor partial = exec.empty(DType::f32, {segments, chunks, width});
  const Partials partials{partial.as<float>(), segments, chunks, width, width};
  if (partial.numel() == 0) return partials;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(width, x), [&](auto n) {
      const dim3 grid(blocks(ceil_div(width, lanes * n)), grid_side(chunks), grid_side(segments));
      sum_rows_kernel<n>
          <<<grid, dim3(lanes, layers), 0, stream>>>(partial.as<float>(), x.as<T>(), rows, width);
      STRATA_LAUNCHED("sum_rows");
    });
  });
  return partials;
}

void CudaBackend::add_column_sums(Exec& exec, Tensor to, Tensor x) {
  const ArenaScope scope(exec.arena);
  add_partials(stream(), to.as<float>(), sum_rows(exec, stream(), x, 1, rows_of(x)));
}

void CudaBackend::add_per_sample_backward(Exec& exec, Tensor dbias, Tensor dy) {
  const std::int64_t batch = dy.shape[0];
  if (dbias.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  store_partials(stream(), dbias, sum_rows(exec, stream(), dy, batch, rows_of(dy) / batch));
}

}  // namespace strata::cuda
