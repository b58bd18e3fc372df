#pragma once

#include <cstddef>

#include "core/device.hpp"
#include "core/dtype.hpp"
#include "core/shape.hpp"

namespace strata {

/// A contiguous, row-major, non-owning view. Activations are NHWC; data == nullptr means "absent".
struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  Device device{};
  Shape shape{};

  explicit operator bool() const { return data != nullptr; }
  std::int64_t numel() const { return shape.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }

  /// Typed pointer; throws when T is not the tensor's dtype.
  template <class T>
  T* as() const {
    STRATA_CHECK(dtype_of<T> == dtype, "tensor is {}", name_of(dtype));
    return reinterpret_cast<T*>(data);
  }

  /// The same elements under another shape of equal size.
  Tensor reshape(Shape to) const {
    STRATA_CHECK(to.numel() == numel(), "{} -> {}", to_string(shape), to_string(to));
    Tensor view = *this;
    view.shape = to;
    return view;
  }

  /// Rows [begin, end) of the outermost axis.
  Tensor rows(std::int64_t begin, std::int64_t end) const {
    STRATA_CHECK(shape.rank() > 0 && 0 <= begin && begin <= end && end <= shape[0],
                 "rows {}..{} of {}", begin, end, to_string(shape));
    Tensor view = *this;
    const std::int64_t row = shape[0] == 0 ? 0 : numel() / shape[0];
    view.data += static_cast<std::size_t>(begin * row) * size_of(dtype);
    view.shape[0] = end - begin;
    return view;
  }
};

/// A view of host memory that the caller keeps alive.
template <class T>
Tensor view_of(T* data, Shape shape) {
  using Plain = std::remove_const_t<T>;
  return {reinterpret_cast<std::byte*>(const_cast<Plain*>(data)), dtype_of<Plain>, host_device,
          shape};
}

}  // namespace strata
