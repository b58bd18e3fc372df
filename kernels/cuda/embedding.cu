// Table look-ups and sinusoids.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/sinusoid.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// One thread a unit of U of y's rows.
template <class U>
__global__ void __launch_bounds__(threads)
    gather_kernel(U* y, const U* table, const std::int64_t* ids, std::int64_t units,
                  std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) y[i] = table[ids[i / units] * units + i % units];
}

template <class T>
__global__ void __launch_bounds__(threads)
    timestep_embedding_kernel(T* y, const float* t, std::int64_t half, std::int64_t count,
                              bool flip_sin_to_cos, float freq_shift) {
  const std::int64_t at = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= count) return;
  const std::int64_t row = at / half, i = at % half;
  const float angle = t[row] * portable::timestep_frequency(i, half, freq_shift);
  T* sines = y + row * 2 * half + (flip_sin_to_cos ? half : 0);
  T* cosines = y + row * 2 * half + (flip_sin_to_cos ? 0 : half);
  sines[i] = from_float<T>(sinf(angle));
  cosines[i] = from_float<T>(cosf(angle));
}

/// One thread a token and n pairs (i, i + half), for every head.
template <int n, class T>
__global__ void __launch_bounds__(threads)
    rope_kernel(T* x, const std::int64_t* positions, const float* inv_freq, std::int64_t heads,
                int half, std::int64_t count) {
  const std::int64_t at = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= count) return;
  const int a_half = half / n;
  const std::int64_t token = at / a_half;
  const int first = static_cast<int>(at % a_half) * n;
  const auto position = static_cast<float>(positions[token]);
  float cosine[n], sine[n];
#pragma unroll
  for (int i = 0; i < n; ++i) sincosf(position * inv_freq[first + i], &sine[i], &cosine[i]);
  for (std::int64_t head = 0; head < heads; ++head) {
    T* low_at = x + (token * heads + head) * 2 * half + first;
    auto low = Vec<T, n>::load(low_at), high = Vec<T, n>::load(low_at + half);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float a = to_float(low.v[i]), b = to_float(high.v[i]);
      low.v[i] = from_float<T>(a * cosine[i] - b * sine[i]);
      high.v[i] = from_float<T>(b * cosine[i] + a * sine[i]);
    }
    low.store(low_at);
    high.store(low_at + half);
  }
}

}  // namespace

void CudaBackend::embedding(Exec& exec, Tensor y, Tensor table, Tensor ids) {
  const std::int64_t vocabulary = table.shape[0], count = ids.numel();
  const auto* id = ids.as<std::int64_t>();
  for (std::int64_t i = 0; ids.device == host_device && i < count; ++i)
    if (id[i] < 0 || id[i] >= vocabulary)
      fail(Exit::data, "token id {} at position {} is outside the table of {} rows", id[i], i,
           vocabulary);
  if (y.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  const auto* rows = upload(exec, ids).as<std::int64_t>();
  const auto bytes = table.shape[1] * static_cast<std::int64_t>(size_of(table.dtype));
  const auto gather = [&](auto unit) {
    using U = decltype(unit);
    const std::int64_t units = bytes / static_cast<std::int64_t>(sizeof(U));
    gather_kernel<<<blocks(ceil_div(count * units, threads)), threads, 0, stream()>>>(
        reinterpret_cast<U*>(y.data), reinterpret_cast<const U*>(table.data), rows, units,
        count * units);
    STRATA_LAUNCHED("embedding");
  };
  if (is_wide(table.shape[1], y, table))
    gather(uint4{});
  else
    gather(std::uint16_t{});
}

void CudaBackend::timestep_embedding(Exec&, Tensor y, Tensor t, bool flip_sin_to_cos,
                                     float freq_shift) {
  if (y.numel() == 0) return;
  const std::int64_t half = y.shape[1] / 2, count = y.shape[0] * half;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    timestep_embedding_kernel<<<blocks(ceil_div(count, threads)), threads, 0, stream()>>>(
        y.as<T>(), t.as<float>(), half, count, flip_sin_to_cos, freq_shift);
    STRATA_LAUNCHED("timestep_embedding");
  });
}

void CudaBackend::rope(Exec& exec, Tensor x, Tensor positions, Tensor inv_freq) {
  if (x.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  const auto* at = upload(exec, positions).as<std::int64_t>();
  const int half = static_cast<int>(x.shape[2] / 2);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(half, x), [&](auto n) {
      const std::int64_t count = x.shape[0] * (half / n);
      rope_kernel<n><<<blocks(ceil_div(count, threads)), threads, 0, stream()>>>(
          x.as<T>(), at, inv_freq.as<float>(), x.shape[1], half, count);
      STRATA_LAUNCHED("rope");
    });
  });
}

}  // namespace strata::cuda
