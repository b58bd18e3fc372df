#pragma once
// Element types of the host kernels, and the reductions that they share.

#include "core/tensor.hpp"
#include "kernels/host/launch.hpp"
#include "kernels/portable/dispatch.hpp"

namespace strata::host {

using portable::optional, portable::rows_of, portable::with_activation, portable::with_type;

template <class T>
struct Rows {
  T* data;
  std::int64_t width;
  T* operator[](std::int64_t row) const { return data + row * width; }
};

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
