#pragma once
// Element types of the host kernels, and the reductions that they share.

#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "core/tensor.hpp"
#include "kernels/host/launch.hpp"
#include "kernels/portable/dispatch.hpp"

namespace strata::host {

using portable::optional, portable::rows_of, portable::with_activation, portable::with_type;

template <class T>
struct Rows {
  T* data;
  std::int64_t width;
  T* operator[](std::int64_t row) const { return data + row * width; }
};

template <class T>
void load_row(float* to, const T* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

/// to[i] = from[i] rounded to T. Subnormal results may become 0.
template <class T>
void store_row(T* to, const float* from, std::int64_t count) {
#ifdef __AVX512BF16__
  if constexpr (sizeof(T) == 2) {
    for (std::int64_t i = 0; i < count / 16 * 16; i += 16) {
      const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
      std::memcpy(to + i, &rounded, sizeof rounded);
    }
    for (std::int64_t i = count / 16 * 16; i < count; ++i) to[i] = to_bf16(from[i]);
    return;
  }
#endif
  for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<T>(from[i]);
}

/// y[i] = value(i) for i in [begin, end), rounded as by store_row. value may read y[i] itself.
template <class T, class Value>
void fill_row(T* y, std::int64_t begin, std::int64_t end, const Value& value) {
  constexpr std::int64_t piece = 128;  // computed, then rounded, in cache
  std::int64_t i = begin;
  for (; i + piece <= end; i += piece) {
    float values[piece];
#pragma omp simd
    for (std::int64_t j = 0; j < piece; ++j) values[j] = value(i + j);
    store_row(y + i, values, piece);
  }
#pragma omp simd
  for (std::int64_t j = i; j < end; ++j) y[j] = from_float<T>(value(j));
}

/// to (width) += the sum over `blocks` rows of partial (blocks, width), in their order.
void add_partials(Exec& exec, float* to, const float* partial, std::int64_t blocks,
                  std::int64_t width, std::int64_t stride);

/// to (N) f32 += column sums of x (M,N).
void add_column_sums(Exec& exec, Tensor to, Tensor x);

}  // namespace strata::host
