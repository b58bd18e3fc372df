#pragma once
// What the kernels share: 16-byte accesses, element types, sums over a warp or block, geometry.
// Every launch's shape depends on tensor shapes alone, and sums have a fixed order: results are the
// same bits in every run.

#include <algorithm>
#include <cstdint>

#include "core/tensor.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/geometry.hpp"
#include "kernels/portable/dispatch.hpp"

namespace strata::cuda {

using portable::optional, portable::rows_of, portable::with_activation, portable::with_type;

/// n neighbouring elements, moved by the widest accesses that they fill.
template <class T, int n>
struct Vec {
  static constexpr int bytes = n * static_cast<int>(sizeof(T));
  static_assert(n == 1 || bytes % 16 == 0 || bytes == 8);
  alignas(bytes < 16 ? bytes : 16) T v[n];

  static __device__ Vec load(const T* from) {
    Vec to;
    if constexpr (n == 1)
      to.v[0] = *from;
    else if constexpr (bytes == 8)
      reinterpret_cast<uint2*>(to.v)[0] = *reinterpret_cast<const uint2*>(from);
    else
#pragma unroll
      for (int i = 0; i < bytes / 16; ++i)
        reinterpret_cast<uint4*>(to.v)[i] = reinterpret_cast<const uint4*>(from)[i];
    return to;
  }
  __device__ void store(T* to) const {
    if constexpr (n == 1)
      *to = v[0];
    else if constexpr (bytes == 8)
      *reinterpret_cast<uint2*>(to) = reinterpret_cast<const uint2*>(v)[0];
    else
#pragma unroll
      for (int i = 0; i < bytes / 16; ++i)
        reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(v)[i];
  }
};

/// Elements of T in 16 bytes.
template <class T>
constexpr int wide = 16 / static_cast<int>(sizeof(T));

/// Whether rows of `width` elements may be moved 16 bytes at a time from all these tensors (absent
/// ones are ignored). Rows are whole accesses of the narrowest type of them.
template <class... Tensors>
bool is_wide(std::int64_t width, const Tensors&... tensors) {
  std::size_t narrowest = 16;
  const auto see = [&](const Tensor& t) {
    if (t) narrowest = std::min(narrowest, size_of(t.dtype));
  };
  (see(tensors), ...);
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  };
  return width % static_cast<std::int64_t>(16 / narrowest) == 0 && (aligned(tensors) && ...);
}

/// Calls f(integral_constant n): n elements at a time for T, or one.
template <class T, class F>
void with_width(bool wide_access, F f) {
  if (wide_access)
    f(std::integral_constant<int, wide<T>>{});
  else
    f(std::integral_constant<int, 1>{});
}

template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

/// The sum over a block of `threads` threads, in every thread. All of them call it.
template <int threads, class T>
__device__ T block_sum(T value) {
  if constexpr (threads == warp_size) return warp_sum(value);
  constexpr int warps = threads / warp_size;
  __shared__ T partial[warps];
  value = warp_sum(value);
  __syncthreads();  // an earlier sum's partials have been read
  if (threadIdx.x % warp_size == 0) partial[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = partial[0];
#pragma unroll
  for (int i = 1; i < warps; ++i) value += partial[i];
  return value;
}

}  // namespace strata::cuda
