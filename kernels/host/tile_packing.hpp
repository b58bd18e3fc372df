#pragma once
// Rows of a tensor as operands of tile_product, which sums over units: over the columns of a row
// (left operand: rows; right operand: panels) or over the rows themselves (row pairs).

#include <algorithm>
#include <utility>

#include "core/tensor.hpp"
#include "kernels/host/tile.hpp"

namespace strata::host {

/// Rows that a panel holds side by side.
inline constexpr std::int64_t panel = 64;

/// to (rows, units of width): each row's values, the rest of its last unit zero.
template <class T>
void pack_rows(Unit* to, const T* from, std::int64_t pitch, std::int64_t width, std::int64_t rows) {
  const std::int64_t units = units_of<T>(width);
  for (std::int64_t r = 0; r < rows; ++r, to += units) {
    to[units - 1] = 0;
    std::memcpy(to, from + r * pitch, static_cast<std::size_t>(width) * sizeof(T));
  }
}

namespace detail {

/// Swaps, in each square of 2 `span` rows and columns, the upper right quarter with the lower left.
template <int span, int... i>
void exchange(Units* rows, std::integer_sequence<int, i...>) {
#pragma GCC unroll 16
  for (int r = 0; r < lane; ++r) {
    if (r & span) continue;
    const Units a = rows[r], b = rows[r + span];
    rows[r] = __builtin_shufflevector(a, b, (i & span ? lane + i - span : i)...);
    rows[r + span] = __builtin_shufflevector(a, b, (i & span ? lane + i : i + span)...);
  }
}

/// to (16,16) with rows `side` apart = the transpose of 16 rows of 16 units, `pitch` bytes apart.
inline void transpose_square(Unit* to, std::int64_t side, const std::byte* from,
                             std::int64_t pitch) {
  constexpr auto columns = std::make_integer_sequence<int, lane>();
  Units rows[lane];
#pragma GCC unroll 16
  for (int r = 0; r < lane; ++r) std::memcpy(&rows[r], from + r * pitch, sizeof(Units));
  exchange<1>(rows, columns);
  exchange<2>(rows, columns);
  exchange<4>(rows, columns);
  exchange<8>(rows, columns);
#pragma GCC unroll 16
  for (int c = 0; c < lane; ++c) std::memcpy(to + c * side, &rows[c], sizeof rows[c]);
}

}  // namespace detail

/// to (units of width, side) = the transpose of `rows` rows, at most `side`; zero past them.
template <class T>
void pack_panel(Unit* to, std::int64_t side, const T* from, std::int64_t pitch, std::int64_t width,
                std::int64_t rows) {
  const std::int64_t units = units_of<T>(width), whole_units = width / unit_values<T> / lane * lane;
  const std::int64_t whole_rows = rows / lane * lane;
  const auto bytes = static_cast<std::int64_t>(sizeof(T));
  const auto* source = reinterpret_cast<const std::byte*>(from);
  if (rows < side) std::fill_n(to, units * side, Unit{0});
  for (std::int64_t r = 0; r < whole_rows; r += lane)
    for (std::int64_t u = 0; u < whole_units; u += lane)
      detail::transpose_square(to + u * side + r, side, source + r * pitch * bytes + u * 4,
                               pitch * bytes);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t u = r < whole_rows ? whole_units : 0; u < units; ++u) {
      const std::int64_t values = std::min(unit_values<T>, width - u * unit_values<T>);
      Unit unit = 0;
      std::memcpy(&unit, source + r * pitch * bytes + u * 4,
                  static_cast<std::size_t>(values * bytes));
      to[u * side + r] = unit;
    }
}

/// to (panels, units of width, 64): the transpose of each panel of 64 rows, rows past `rows` zero.
template <class T>
void pack_panels(Unit* to, const T* from, std::int64_t pitch, std::int64_t width,
                 std::int64_t rows) {
  for (std::int64_t first = 0; first < rows; first += panel, to += units_of<T>(width) * panel)
    pack_panel(to, panel, from + first * pitch, pitch, width, std::min(panel, rows - first));
}

/// to (count): `low` and `high` (absent: zeros) rounded to bf16, side by side. Subnormal results
/// may become 0.
inline void store_pairs(Unit* to, const float* low, const float* high, std::int64_t count) {
  std::int64_t i = 0;
#ifdef __AVX512BF16__
  using Halves = std::uint16_t __attribute__((vector_size(lane * sizeof(std::uint16_t))));
  const auto rounded = [i = &i](const float* from) {
    const __m256bh values = _mm512_cvtneps_pbh(_mm512_loadu_ps(from + *i));
    return __builtin_convertvector(reinterpret_cast<Halves>(values), detail::Units);
  };
  for (; i + lane <= count; i += lane) {
    const detail::Units pairs = rounded(low) | (high ? rounded(high) << 16 : detail::Units{});
    std::memcpy(to + i, &pairs, sizeof pairs);
  }
#endif
  for (; i < count; ++i)
    to[i] = to_bf16(low[i]).bits |
            static_cast<Unit>(high ? to_bf16(high[i]).bits : std::uint16_t{0}) << 16;
}

/// to (units of rows, padded): values of as many rows as a unit holds side by side, zero past
/// `width` and `rows`.
template <class T>
void pack_row_units(Unit* to, std::int64_t padded, const T* from, std::int64_t pitch,
                    std::int64_t width, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += unit_values<T>, to += padded) {
    const T* first = from + r * pitch;
    if constexpr (unit_values<T> == 1) {
      std::memcpy(to, first, static_cast<std::size_t>(width) * sizeof(T));
    } else if (r + 1 < rows) {
      const T* second = first + pitch;
      for (std::int64_t c = 0; c < width; ++c)
        to[c] = first[c].bits | static_cast<Unit>(second[c].bits) << 16;
    } else {
      for (std::int64_t c = 0; c < width; ++c) to[c] = first[c].bits;
    }
    std::fill(to + width, to + padded, Unit{0});
  }
}

}  // namespace strata::host
