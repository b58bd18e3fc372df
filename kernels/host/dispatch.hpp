#pragma once
// Element types of the host kernels, and the reductions that they share.

#include "core/tensor.hpp"
#include "kernels/host/launch.hpp"

namespace strata::host {

/// Calls f with a value of the tensor's element type: f(float{}) or f(bf16{}).
template <class F>
void with_type(DType dtype, F f) {
  if (dtype == DType::bf16)
    f(bf16{});
  else
    f(float{});
}

template <class T>
struct Rows {
  T* data;
  std::int64_t width;
  T* operator[](std::int64_t row) const { return data + row * width; }
};

/// Number of rows when the last axis is the row.
inline std::int64_t rows_of(const Tensor& t) {
  return t.shape[-1] == 0 ? 0 : t.numel() / t.shape[-1];
}

template <class T>
void load_row(float* to, const T* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

template <class T>
void store_row(T* to, const float* from, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = from_float<T>(from[i]);
}

/// to (width) += the sum over `blocks` rows of partial (blocks, width), in their order.
void add_partials(Exec& exec, float* to, const float* partial, std::int64_t blocks,
                  std::int64_t width, std::int64_t stride);

/// to (N) f32 += column sums of x (M,N).
void add_column_sums(Exec& exec, Tensor to, Tensor x);

}  // namespace strata::host
