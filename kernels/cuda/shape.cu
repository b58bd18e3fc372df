// Ops that move elements.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layout.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// Rows of bytes, moved in units of U: row r of `to` at to + r * to_pitch, likewise from; all in
/// units. One thread a unit.
template <class U>
__global__ void __launch_bounds__(threads)
    copy_rows_kernel(U* to, std::int64_t to_pitch, const U* from, std::int64_t from_pitch,
                     std::int64_t width, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const std::int64_t row = i / width, column = i % width;
  to[row * to_pitch + column] = from[row * from_pitch + column];
}

/// Calls f(unit) with the widest unit (16 or 2 bytes) that divides every size and address given.
template <class F>
void with_unit(std::initializer_list<std::uint64_t> sizes, F f) {
  std::uint64_t all = 0;
  for (const std::uint64_t size : sizes) all |= size;
  if (all % sizeof(uint4) == 0)
    f(uint4{});
  else
    f(std::uint16_t{});
}

std::uint64_t address(const std::byte* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

/// Copies `width` bytes of each row between pitches (bytes).
void copy_rows(cudaStream_t stream, std::byte* to, std::int64_t to_pitch, const std::byte* from,
               std::int64_t from_pitch, std::int64_t width, std::int64_t rows) {
  if (rows == 0 || width == 0) return;
  const auto size = [](std::int64_t bytes) { return static_cast<std::uint64_t>(bytes); };
  with_unit({address(to), address(from), size(to_pitch), size(from_pitch), size(width)},
            [&](auto unit) {
              using U = decltype(unit);
              constexpr std::int64_t bytes = sizeof(U);
              const std::int64_t count = rows * (width / bytes);
              copy_rows_kernel<<<blocks(ceil_div(count, threads)), threads, 0, stream>>>(
                  reinterpret_cast<U*>(to), to_pitch / bytes, reinterpret_cast<const U*>(from),
                  from_pitch / bytes, width / bytes, count);
              STRATA_LAUNCHED("copy_rows");
            });
}

/// An image whose pixels have `pixel` units.
struct Image {
  unsigned height, width, pixel;

  Image(const Tensor& t, std::int64_t units)
      : height(static_cast<unsigned>(t.shape[1])),
        width(static_cast<unsigned>(t.shape[2])),
        pixel(static_cast<unsigned>(units)) {
    STRATA_CHECK(t.shape[2] * units < std::int64_t{1} << 31, "a row of {}", to_string(t.shape));
  }
  dim3 grid(std::int64_t batch) const {
    return {blocks(ceil_div(std::int64_t{width} * pixel, threads)), grid_side(height),
            grid_side(batch)};
  }
};

/// Grid: units of a row of pixels, rows, samples.
template <class U>
__global__ void __launch_bounds__(threads) upsample_kernel(U* y, const U* x, Image to, Image from) {
  const unsigned i = blockIdx.x * threads + threadIdx.x, column = i / to.pixel;
  if (column >= to.width) return;
  const auto above = static_cast<unsigned>(std::uint64_t{blockIdx.y} * from.height / to.height);
  const auto left = static_cast<unsigned>(std::uint64_t{column} * from.width / to.width);
  const std::int64_t row = std::int64_t{blockIdx.z} * to.height + blockIdx.y;
  const std::int64_t source = (std::int64_t{blockIdx.z} * from.height + above) * from.width + left;
  y[row * to.width * to.pixel + i] = x[source * to.pixel + i % to.pixel];
}

/// First pixel of `to` that is made of pixel `index` of `from`.
__device__ unsigned first_made(unsigned index, unsigned from, unsigned to) {
  return static_cast<unsigned>((std::uint64_t{index} * to + from - 1) / from);
}

/// dx = the sums of dy over the pixels that were made of a pixel; groups of n channels. Grid as
/// above.
template <int n, class T>
__global__ void __launch_bounds__(threads)
    upsample_backward_kernel(T* dx, const T* dy, Image small, Image large) {
  const unsigned i = blockIdx.x * threads + threadIdx.x, column = i / small.pixel;
  if (column >= small.width) return;
  const unsigned bottom = first_made(blockIdx.y + 1, small.height, large.height);
  const unsigned right = first_made(column + 1, small.width, large.width);
  float sum[n] = {};
  for (unsigned p = first_made(blockIdx.y, small.height, large.height); p < bottom; ++p)
    for (unsigned q = first_made(column, small.width, large.width); q < right; ++q) {
      const std::int64_t row = std::int64_t{blockIdx.z} * large.height + p;
      const auto values =
          Vec<T, n>::load(dy + ((row * large.width + q) * large.pixel + i % small.pixel) * n);
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] += to_float(values.v[k]);
    }
  Vec<T, n> to;
#pragma unroll
  for (int k = 0; k < n; ++k) to.v[k] = from_float<T>(sum[k]);
  const std::int64_t row = std::int64_t{blockIdx.z} * small.height + blockIdx.y;
  to.store(dx + (row * small.width * small.pixel + i) * n);
}

constexpr int tile = 32, tile_rows = 8;

/// y (rows, columns) transposed = x (columns, rows) for each matrix of the batch (grid's z),
/// through a tile in shared memory so that both sides are read and written along their rows.
template <class To, class From>
__global__ void __launch_bounds__(tile* tile_rows)
    transpose_kernel(To* y, const From* x, std::int64_t rows, std::int64_t columns) {
  __shared__ float shared[tile][tile + 1];
  const std::int64_t matrix = std::int64_t{blockIdx.z} * rows * columns;
  const std::int64_t row = std::int64_t{blockIdx.x} * tile,
                     column = std::int64_t{blockIdx.y} * tile;
  for (int i = threadIdx.y; i < tile; i += tile_rows)
    if (column + i < columns && row + threadIdx.x < rows)
      shared[i][threadIdx.x] = to_float(x[matrix + (column + i) * rows + row + threadIdx.x]);
  __syncthreads();
  for (int i = threadIdx.y; i < tile; i += tile_rows)
    if (row + i < rows && column + threadIdx.x < columns)
      y[matrix + (row + i) * columns + column + threadIdx.x] =
          from_float<To>(shared[threadIdx.x][i]);
}

}  // namespace

void transpose(cudaStream_t stream, const Tensor& y, const Tensor& x, std::int64_t batch,
               std::int64_t rows, std::int64_t columns) {
  if (y.numel() == 0) return;
  const dim3 grid(blocks(ceil_div(rows, tile)), grid_side(ceil_div(columns, tile)),
                  grid_side(batch));
  with_type(y.dtype, [&](auto to) {
    with_type(x.dtype, [&](auto from) {
      transpose_kernel<<<grid, dim3(tile, tile_rows), 0, stream>>>(
          y.as<decltype(to)>(), x.as<decltype(from)>(), rows, columns);
      STRATA_LAUNCHED("transpose");
    });
  });
}

void CudaBackend::concat(Exec&, Tensor y, Tensor a, Tensor b) {
  const auto size = static_cast<std::int64_t>(size_of(y.dtype));
  const std::int64_t first = a.shape[-1] * size, second = b.shape[-1] * size;
  copy_rows(stream(), y.data, first + second, a.data, first, first, rows_of(y));
  copy_rows(stream(), y.data + first, first + second, b.data, second, second, rows_of(y));
}

void CudaBackend::split(Exec&, Tensor a, Tensor b, Tensor y) {
  const auto size = static_cast<std::int64_t>(size_of(y.dtype));
  const std::int64_t first = a.shape[-1] * size, second = b.shape[-1] * size;
  copy_rows(stream(), a.data, first, y.data, first + second, first, rows_of(y));
  copy_rows(stream(), b.data, second, y.data + first, first + second, second, rows_of(y));
}

void CudaBackend::upsample_nearest(Exec&, Tensor y, Tensor x) {
  if (y.numel() == 0) return;
  const std::int64_t pixel = x.shape[3] * static_cast<std::int64_t>(size_of(x.dtype));
  with_unit({address(y.data), address(x.data), static_cast<std::uint64_t>(pixel)}, [&](auto unit) {
    using U = decltype(unit);
    const std::int64_t units = pixel / static_cast<std::int64_t>(sizeof(U));
    const Image to(y, units), from(x, units);
    upsample_kernel<<<to.grid(y.shape[0]), threads, 0, stream()>>>(
        reinterpret_cast<U*>(y.data), reinterpret_cast<const U*>(x.data), to, from);
    STRATA_LAUNCHED("upsample_nearest");
  });
}

void CudaBackend::upsample_nearest_backward(Exec&, Tensor dx, Tensor dy) {
  if (dx.numel() == 0) return;
  with_type(dx.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(dx.shape[3], dx, dy), [&](auto n) {
      const Image small(dx, dx.shape[3] / n), large(dy, dx.shape[3] / n);
      upsample_backward_kernel<n>
          <<<small.grid(dx.shape[0]), threads, 0, stream()>>>(dx.as<T>(), dy.as<T>(), small, large);
      STRATA_LAUNCHED("upsample_nearest_backward");
    });
  });
}

void CudaBackend::nchw_to_nhwc(Exec&, Tensor y, Tensor x) {
  transpose(stream(), y, x, x.shape[0], x.shape[2] * x.shape[3], x.shape[1]);
}

void CudaBackend::nhwc_to_nchw(Exec&, Tensor y, Tensor x) {
  transpose(stream(), y, x, x.shape[0], x.shape[3], x.shape[1] * x.shape[2]);
}

}  // namespace strata::cuda
