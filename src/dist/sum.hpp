#pragma once
// The one order in which contributions of ranks are added.

#include <span>

#include "dist/communicator.hpp"

namespace strata {

/// out (n) f32 or dtype = parts[0] + parts[1] + ..., n elements of `dtype` (f32 or bf16) each, as
/// the binary tree ((0+1)+(2+3))+..., in f32. A part may be unaligned with the others.
void sum_parts(Tensor out, DType dtype, std::span<const std::byte* const> parts);

/// values[0] += ... += values[n-1], the same tree.
template <class T>
T sum_tree(std::span<T> values) {
  for (std::size_t step = 1; step < values.size(); step *= 2)
    for (std::size_t i = 0; i + step < values.size(); i += 2 * step) values[i] += values[i + step];
  return values.empty() ? T{} : values[0];
}

/// Throws unless the tensors fit a reduce-scatter over comm's ranks.
void check_reduce_scatter(const Communicator& comm, Tensor shard, Tensor full, std::int64_t part);

}  // namespace strata
