#pragma once
// Element types of the host kernels, and the reductions that they share.

#include <algorithm>
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

/// Elements of a row that are computed in f32, then rounded, in cache.
inline constexpr std::int64_t row_piece = 128;

/// f(first, count) over [begin, end) in pieces of a row.
template <class F>
void for_pieces(std::int64_t begin, std::int64_t end, const F& f) {
  for (; begin < end; begin += row_piece) f(begin, std::min(row_piece, end - begin));
}

/// y[i] = value(i) for i in [begin, end), rounded as by store_row. value may read y[i] itself.
template <class T, class Value>
void fill_row(T* y, std::int64_t begin, std::int64_t end, const Value& value) {
  for_pieces(begin, end, [&](std::int64_t first, std::int64_t count) {
    float values[row_piece];
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) values[j] = value(first + j);
    store_row(y + first, values, count);
  });
}

/// to (width) += the sum over `blocks` rows of partial (blocks, width), in their order.
void add_partials(Exec& exec, float* to, const float* partial, std::int64_t blocks,
                  std::int64_t width, std::int64_t stride);

/// to (N) f32 += column sums of x (M,N).
void add_column_sums(Exec& exec, Tensor to, Tensor x);

}  // namespace strata::host
