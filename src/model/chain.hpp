#pragma once

#include <array>
#include <utility>

#include "core/exec.hpp"

namespace strata {

/// Two buffers used in turn for a chain of tensors in which each is dead once the next is made.
class Chain {
 public:
  Chain(Exec& exec, DType dtype, std::int64_t largest)
      : buffers_{exec.empty(dtype, {largest}), exec.empty(dtype, {largest})} {}
  Tensor next(Shape shape) {
    std::swap(buffers_[0], buffers_[1]);
    return buffers_[0].rows(0, shape.numel()).reshape(shape);
  }

 private:
  std::array<Tensor, 2> buffers_;
};

}  // namespace strata
