#pragma once

#include "core/exec.hpp"

namespace strata {

/// FLOP/s of a matrix product (1024 x 1024 x 1024) on this rank just now: the scale of `mfu` and of
/// the dry run's estimate. Takes a fraction of a second.
double measured_matmul_rate(Exec& exec, DType dtype);

}  // namespace strata
