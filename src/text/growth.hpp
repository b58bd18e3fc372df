#pragma once
// A bound for what the steps of a tokenizer.json make of a text: thirty that each double it would
// fill any memory.

#include <algorithm>
#include <cstddef>
#include <string>

#include "core/error.hpp"

namespace strata {

/// While it is there, what this thread makes of a text of so many bytes may take 16 times as many,
/// which no character's normal form does, or half a MiB.
class GrowthLimit {
 public:
  explicit GrowthLimit(std::size_t text_bytes) : before_(most_) {
    most_ = std::max(least, 16 * text_bytes);
  }
  ~GrowthLimit() { most_ = before_; }
  GrowthLimit(const GrowthLimit&) = delete;
  GrowthLimit& operator=(const GrowthLimit&) = delete;

  static std::size_t most() { return most_; }

 private:
  static constexpr std::size_t least = std::size_t{1} << 19;
  static inline thread_local std::size_t most_ = least;
  std::size_t before_;
};

inline void check_growth(std::size_t size, const std::string& where) {
  if (size > GrowthLimit::most())
    fail(Exit::data, "{}: its steps make more than {} bytes of one text", where,
         GrowthLimit::most());
}

}  // namespace strata
