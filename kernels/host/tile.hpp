#pragma once
// A small f32 matrix product for operands that lie in cache: 6 rows by 64 columns of the result in
// registers. Used by attention, whose operands are packed tiles.

#include <cstdint>
#include <cstring>

namespace strata::host {

/// Columns of packed operands come in whole lanes.
inline constexpr std::int64_t lane = 16;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// A(m,k) = data[m * row + k * column]
struct TileView {
  const float* data;
  std::int64_t row, column;
};

namespace detail {

using Vector = float __attribute__((vector_size(lane * sizeof(float))));

/// The accumulators must stay in registers: every loop over them is unrolled.
template <int rows, int lanes>
void tile_kernel(std::int64_t depth, TileView a, const float* b, std::int64_t b_row, float* c,
                 std::int64_t c_row, bool accumulate) {
  Vector sum[rows][lanes];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < lanes; ++n)
      if (accumulate)
        std::memcpy(&sum[m][n], c + m * c_row + n * lane, sizeof(Vector));
      else
        sum[m][n] = Vector{};
  for (std::int64_t k = 0; k < depth; ++k) {
    Vector columns[lanes];
#pragma GCC unroll 8
    for (int n = 0; n < lanes; ++n)
      std::memcpy(&columns[n], b + k * b_row + n * lane, sizeof(Vector));
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const float factor = a.data[m * a.row + k * a.column];
#pragma GCC unroll 8
      for (int n = 0; n < lanes; ++n) sum[m][n] += factor * columns[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < lanes; ++n)
      std::memcpy(c + m * c_row + n * lane, &sum[m][n], sizeof(Vector));
}

template <int rows>
void tile_columns(std::int64_t n, std::int64_t depth, TileView a, const float* b,
                  std::int64_t b_row, float* c, std::int64_t c_row, bool accumulate) {
  std::int64_t at = 0;
  for (; at + 4 * lane <= n; at += 4 * lane)
    tile_kernel<rows, 4>(depth, a, b + at, b_row, c + at, c_row, accumulate);
  for (; at + 2 * lane <= n; at += 2 * lane)
    tile_kernel<rows, 2>(depth, a, b + at, b_row, c + at, c_row, accumulate);
  for (; at < n; at += lane)
    tile_kernel<rows, 1>(depth, a, b + at, b_row, c + at, c_row, accumulate);
}

}  // namespace detail

/// C (m,n) = or += A (m,depth) B (depth,n); n a multiple of `lane`.
inline void tile_product(std::int64_t m, std::int64_t n, std::int64_t depth, TileView a,
                         const float* b, std::int64_t b_row, float* c, std::int64_t c_row,
                         bool accumulate) {
  std::int64_t at = 0;
  const auto rest = [&] { return TileView{a.data + at * a.row, a.row, a.column}; };
  for (; at + 6 <= m; at += 6)
    detail::tile_columns<6>(n, depth, rest(), b, b_row, c + at * c_row, c_row, accumulate);
  for (; at + 2 <= m; at += 2)
    detail::tile_columns<2>(n, depth, rest(), b, b_row, c + at * c_row, c_row, accumulate);
  for (; at < m; ++at)
    detail::tile_columns<1>(n, depth, rest(), b, b_row, c + at * c_row, c_row, accumulate);
}

}  // namespace strata::host
