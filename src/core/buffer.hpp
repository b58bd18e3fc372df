#pragma once

#include <utility>

#include "core/tensor.hpp"

namespace strata {

/// Owns one allocation; move-only. The contents are uninitialised unless `zeros` made it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, Shape shape, Device device = host_device)
      : tensor_{nullptr, dtype, device, shape} {
    tensor_.data = static_cast<std::byte*>(memory::allocate(device, tensor_.bytes()));
  }
  static Buffer zeros(DType dtype, Shape shape);  // host only
  Buffer(Buffer&& other) noexcept : tensor_(std::exchange(other.tensor_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(tensor_, other.tensor_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (tensor_.data) memory::release(tensor_.device, tensor_.data, tensor_.bytes());
  }

  const Tensor& tensor() const { return tensor_; }
  operator Tensor() const { return tensor_; }
  template <class T>
  T* as() const {
    return tensor_.as<T>();
  }

 private:
  Tensor tensor_{};
};

}  // namespace strata
