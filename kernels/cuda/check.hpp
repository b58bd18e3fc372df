#pragma once
// Status codes of CUDA's libraries become Error(70), naming the call and where it stands; the exit
// policy adds the rank. A device that is not there is Error(69).

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "core/error.hpp"

namespace strata::cuda {

void check(cudaError_t status, const char* call, const char* file, int line);
void check(cublasStatus_t status, const char* call, const char* file, int line);

/// The error of the launch just made, if any; `kernel` names it.
void check_launch(const char* kernel, const char* file, int line);

}  // namespace strata::cuda

#define STRATA_CUDA(call) ::strata::cuda::check((call), #call, __FILE__, __LINE__)
#define STRATA_LAUNCHED(kernel) ::strata::cuda::check_launch(kernel, __FILE__, __LINE__)
