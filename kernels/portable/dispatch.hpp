#pragma once
// From what a call holds at run time to what its kernels are compiled for.

#include <type_traits>

#include "core/tensor.hpp"
#include "kernels/ops.hpp"

namespace strata::portable {

/// Calls f with a value of the tensor's element type: f(float{}) or f(bf16{}).
template <class F>
void with_type(DType dtype, F f) {
  if (dtype == DType::bf16)
    f(bf16{});
  else
    f(float{});
}

/// Calls f(std::true_type{}) for SiLU, f(std::false_type{}) for none.
template <class F>
void with_activation(ops::Activation activation, F f) {
  if (activation == ops::Activation::silu)
    f(std::true_type{});
  else
    f(std::false_type{});
}

/// Number of rows when the last axis is the row.
inline std::int64_t rows_of(const Tensor& t) {
  return t.shape[-1] == 0 ? 0 : t.numel() / t.shape[-1];
}

/// The elements, or null where the tensor is absent.
template <class T>
T* optional(const Tensor& t) {
  return t ? t.as<T>() : nullptr;
}

}  // namespace strata::portable
