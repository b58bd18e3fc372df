#pragma once

#include <algorithm>

#include "core/error.hpp"

namespace strata {

/// To how many rows packed rows of varying number are padded. Few numbers of rows, few recordings.
class RowBuckets {
 public:
  /// Not at all.
  RowBuckets() = default;
  /// `count` of them, multiples of the first, which is one of `unit`; the last is at least `most`.
  RowBuckets(std::int64_t most, std::int64_t count, std::int64_t unit = 1)
      : step_(std::max<std::int64_t>(1, (most + count * unit - 1) / (count * unit)) * unit),
        most_(step_ * count) {}
  /// The least bucket that holds so many rows.
  std::int64_t rows_for(std::int64_t rows) const {
    if (step_ == 0) return rows;
    STRATA_CHECK(rows <= most_, "{} rows of at most {}", rows, most_);
    return std::max<std::int64_t>(1, (rows + step_ - 1) / step_) * step_;
  }
  /// The largest of them; 0 without padding.
  std::int64_t most_rows() const { return most_; }

 private:
  std::int64_t step_ = 0, most_ = 0;
};

}  // namespace strata
