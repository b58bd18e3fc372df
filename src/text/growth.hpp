#pragma once
// A bound for what the steps of a tokenizer.json make of a text: thirty that each double it would
// fill any memory.

#include <cstddef>
#include <string>

#include "core/error.hpp"

namespace strata {

inline void check_growth(std::size_t bytes, const std::string& where) {
  constexpr std::size_t most = std::size_t{1} << 24;
  if (bytes > most)
    fail(Exit::data, "{}: its steps make more than {} bytes of one text", where, most);
}

}  // namespace strata
