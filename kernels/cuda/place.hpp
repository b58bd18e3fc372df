#pragma once
// Pixels of one image laid into another.

#include <cuda_runtime_api.h>

#include "core/tensor.hpp"

namespace strata::cuda {

/// to (B,H,W,C): pixel (top + i step, left + j step) = from[i][j], all others zero. from (B,h,w,C);
/// its pixels that fall outside are left out, so negative offsets cut an image back.
void place(cudaStream_t stream, const Tensor& to, const Tensor& from, std::int64_t top,
           std::int64_t left, std::int64_t step);

}  // namespace strata::cuda
