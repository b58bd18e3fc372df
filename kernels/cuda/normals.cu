// Gaussian noise, the same bits as on the host. Compiled with contraction off: see
// portable/normals.hpp.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/normals.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// One thread a block of four words.
__global__ void __launch_bounds__(threads)
    normals_kernel(float* out, PhiloxKey key, const PhiloxCounter* at, std::int64_t width,
                   std::int64_t a_row, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= count) return;
  const std::int64_t row = i / a_row, block = i % a_row;
  const auto words = random_block(key, at[row], static_cast<std::uint32_t>(block));
  const auto low = portable::normal_pair(words[0], words[1]);
  const auto high = portable::normal_pair(words[2], words[3]);
  const float normal[] = {low.first, low.second, high.first, high.second};
  float* to = out + row * width + 4 * block;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (4 * block + k < width) to[k] = normal[k];
}

}  // namespace

void CudaBackend::normals(Exec& exec, Tensor out, PhiloxKey key, Tensor at) {
  if (out.numel() == 0) return;
  static_assert(sizeof(PhiloxCounter) == 16 && std::is_trivially_copyable_v<PhiloxCounter>);
  const std::int64_t batch = out.shape[0], width = out.numel() / batch, a_row = ceil_div(width, 4);
  const ArenaScope scope(exec.arena);
  const Tensor counters = upload(exec, at);
  normals_kernel<<<blocks(ceil_div(batch * a_row, threads)), threads, 0, stream()>>>(
      out.as<float>(), key, reinterpret_cast<const PhiloxCounter*>(counters.data), width, a_row,
      batch * a_row);
  STRATA_LAUNCHED("normals");
}

}  // namespace strata::cuda
