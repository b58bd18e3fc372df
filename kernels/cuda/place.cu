#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layout.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

struct Frame {
  int height, width;            // of `to`
  int from_height, from_width;  // of `from`
  int top, left, step;
  int pixel;  // units of a pixel
};

/// Grid: units of a row of `to`, rows, samples.
template <class U>
__global__ void __launch_bounds__(threads) place_kernel(U* to, const U* from, Frame f) {
  const int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  const int column = i / f.pixel, row = static_cast<int>(blockIdx.y);
  if (column >= f.width) return;
  const int down = row - f.top, right = column - f.left;
  const bool inside = down >= 0 && right >= 0 && down % f.step == 0 && right % f.step == 0 &&
                      down / f.step < f.from_height && right / f.step < f.from_width;
  U value{};
  if (inside) {
    const std::int64_t source =
        (std::int64_t{blockIdx.z} * f.from_height + down / f.step) * f.from_width + right / f.step;
    value = from[source * f.pixel + i % f.pixel];
  }
  to[((std::int64_t{blockIdx.z} * f.height + row) * f.width) * f.pixel + i] = value;
}

template <class U>
void launch(cudaStream_t stream, const Tensor& to, const Tensor& from, Frame frame) {
  const auto bytes = to.shape[3] * static_cast<std::int64_t>(size_of(to.dtype));
  frame.pixel = static_cast<int>(bytes / static_cast<std::int64_t>(sizeof(U)));
  const std::int64_t units = std::int64_t{frame.width} * frame.pixel;
  STRATA_CHECK(units < std::int64_t{1} << 30, "a row of {}", to_string(to.shape));
  const dim3 grid(blocks(ceil_div(units, threads)), grid_side(frame.height),
                  grid_side(to.shape[0]));
  place_kernel<<<grid, threads, 0, stream>>>(reinterpret_cast<U*>(to.data),
                                             reinterpret_cast<const U*>(from.data), frame);
  STRATA_LAUNCHED("place");
}

}  // namespace

void place(cudaStream_t stream, const Tensor& to, const Tensor& from, std::int64_t top,
           std::int64_t left, std::int64_t step) {
  if (to.numel() == 0) return;
  const auto extent = [](std::int64_t e) { return static_cast<int>(e); };
  const Frame frame{
      extent(to.shape[1]), extent(to.shape[2]), extent(from.shape[1]), extent(from.shape[2]),
      extent(top),         extent(left),        extent(step),          0};
  if (is_wide(to.shape[3], to, from))
    launch<uint4>(stream, to, from, frame);
  else
    launch<std::uint16_t>(stream, to, from, frame);
}

}  // namespace strata::cuda
