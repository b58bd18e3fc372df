#pragma once
// Elements moved between layouts, for ops of other files.

#include <cuda_runtime_api.h>

#include "core/tensor.hpp"

namespace strata::cuda {

/// to (B,H,W,C): pixel (top + i step, left + j step) = from[i][j], all others zero. from (B,h,w,C);
/// its pixels that fall outside are left out, so negative offsets cut an image back.
void place(cudaStream_t stream, const Tensor& to, const Tensor& from, std::int64_t top,
           std::int64_t left, std::int64_t step);

/// to = from, either f32 or bf16.
void convert(cudaStream_t stream, const Tensor& to, const Tensor& from);

/// y (batch, rows, columns) from x (batch, columns, rows).
void transpose(cudaStream_t stream, const Tensor& y, const Tensor& x, std::int64_t batch,
               std::int64_t rows, std::int64_t columns);

}  // namespace strata::cuda
