#pragma once
// A small matrix product for operands that lie in cache: 6 rows by 64 columns of the result in
// registers, summed in f32. Used by attention, whose operands are packed tiles.

#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "core/dtype.hpp"

namespace strata::host {

/// Columns of packed operands come in whole lanes.
inline constexpr std::int64_t lane = 16;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Four bytes of an operand: the neighbours along the summed axis that fit, one f32 or two bf16.
using Unit = std::uint32_t __attribute__((may_alias));
template <class T>
inline constexpr std::int64_t unit_values = sizeof(Unit) / sizeof(T);
/// Units that hold so many values along the summed axis; what is over must be zero.
template <class T>
constexpr std::int64_t units_of(std::int64_t values) {
  return (values + unit_values<T> - 1) / unit_values<T>;
}

/// A(m,k), in units: data[m * row + k * column]
struct TileView {
  const Unit* data;
  std::int64_t row, column;
};

namespace detail {

using Vector = float __attribute__((vector_size(lane * sizeof(float))));
using Units = std::uint32_t __attribute__((vector_size(lane * sizeof(Unit))));

/// sum += a b, lane by lane. By reference: how vectors are passed by value depends on the processor
/// that is compiled for.
template <class T>
void add_products(Vector& sum, const Units& a, const Units& b) {
  if constexpr (unit_values<T> == 1) {
    sum += reinterpret_cast<Vector>(a) * reinterpret_cast<Vector>(b);
  } else {
#ifdef __AVX512BF16__
    sum = reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                    reinterpret_cast<__m512bh>(a),
                                                    reinterpret_cast<__m512bh>(b)));
#else
    constexpr std::uint32_t high = 0xffff0000u;
    sum += reinterpret_cast<Vector>(a << 16) * reinterpret_cast<Vector>(b << 16);
    sum += reinterpret_cast<Vector>(a & high) * reinterpret_cast<Vector>(b & high);
#endif
  }
}

/// The accumulators must stay in registers: every loop over them is unrolled.
template <class T, int rows, int lanes>
void tile_kernel(std::int64_t depth, TileView a, const Unit* b, std::int64_t b_row, float* c,
                 std::int64_t c_row, float factor, bool accumulate) {
  Vector sum[rows][lanes]{};
  for (std::int64_t k = 0; k < depth; ++k) {
    Units columns[lanes];
#pragma GCC unroll 8
    for (int n = 0; n < lanes; ++n)
      std::memcpy(&columns[n], b + k * b_row + n * lane, sizeof(Units));
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const Units row = Units{} + a.data[m * a.row + k * a.column];
#pragma GCC unroll 8
      for (int n = 0; n < lanes; ++n) add_products<T>(sum[m][n], row, columns[n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < lanes; ++n) {
      float* to = c + m * c_row + n * lane;
      Vector before{};
      if (accumulate) std::memcpy(&before, to, sizeof(Vector));
      const Vector after = before + factor * sum[m][n];
      std::memcpy(to, &after, sizeof(Vector));
    }
}

template <class T, int rows>
void tile_columns(std::int64_t n, std::int64_t depth, TileView a, const Unit* b, std::int64_t b_row,
                  float* c, std::int64_t c_row, float factor, bool accumulate) {
  std::int64_t at = 0;
  for (; at + 4 * lane <= n; at += 4 * lane)
    tile_kernel<T, rows, 4>(depth, a, b + at, b_row, c + at, c_row, factor, accumulate);
  for (; at + 2 * lane <= n; at += 2 * lane)
    tile_kernel<T, rows, 2>(depth, a, b + at, b_row, c + at, c_row, factor, accumulate);
  for (; at < n; at += lane)
    tile_kernel<T, rows, 1>(depth, a, b + at, b_row, c + at, c_row, factor, accumulate);
}

}  // namespace detail

/// C (m,n) = or += factor A (m,depth) B (depth,n), depth in units of T; n a multiple of `lane`.
template <class T>
void tile_product(std::int64_t m, std::int64_t n, std::int64_t depth, TileView a, const Unit* b,
                  std::int64_t b_row, float* c, std::int64_t c_row, float factor, bool accumulate) {
  std::int64_t at = 0;
  const auto rows = [&]<int count>(std::integral_constant<int, count>) {
    for (; at + count <= m; at += count)
      detail::tile_columns<T, count>(n, depth, {a.data + at * a.row, a.row, a.column}, b, b_row,
                                     c + at * c_row, c_row, factor, accumulate);
  };
  rows(std::integral_constant<int, 6>());
  rows(std::integral_constant<int, 2>());
  rows(std::integral_constant<int, 1>());
}

}  // namespace strata::host
