#include "core/shape.hpp"

#include <fmt/ranges.h>

namespace strata {

std::string to_string(const Shape& shape) {
  return fmt::format("({})", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace strata
