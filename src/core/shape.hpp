#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/error.hpp"

namespace strata {

/// Up to four extents, outermost first. Rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int max_rank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents) {
    STRATA_CHECK(extents.size() <= max_rank, "rank {} > 4", extents.size());
    for (auto e : extents) extents_[rank_++] = e;
  }

  int rank() const { return rank_; }
  /// Negative axes count from the end.
  std::int64_t operator[](int axis) const { return extents_[axis < 0 ? axis + rank_ : axis]; }
  std::int64_t& operator[](int axis) { return extents_[axis < 0 ? axis + rank_ : axis]; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extents_[i];
    return n;
  }
  void append(std::int64_t extent) {
    STRATA_CHECK(rank_ < max_rank);
    extents_[rank_++] = extent;
  }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }

  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (extents_[i] != other.extents_[i]) return false;
    return true;
  }

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

/// "(2, 32, 32, 4)"
std::string to_string(const Shape& shape);

}  // namespace strata
