#pragma once
// Sums over rows in two passes: chunks of rows in parallel, then the chunks in their order.

#include "core/exec.hpp"
#include "kernels/cuda/launch.cuh"

namespace strata::cuda {

/// The partial sums (segments, chunks, width) f32 that a kernel left to be added up.
struct Partials {
  const float* data;
  std::int64_t segments, chunks, width;
  std::int64_t pitch;  // elements from chunk to chunk; at least width
};

/// to (segments, width) f32 += the sums over the chunks.
void add_partials(cudaStream_t stream, float* to, const Partials& partials);

/// x (segments, rows, width): partial sums over the rows of each segment, in the arena.
Partials sum_rows(Exec& exec, cudaStream_t stream, const Tensor& x, std::int64_t segments,
                  std::int64_t rows);

/// to (segments, width) T = the sums over the chunks.
void store_partials(cudaStream_t stream, const Tensor& to, const Partials& partials);

}  // namespace strata::cuda
