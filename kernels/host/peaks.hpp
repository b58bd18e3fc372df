#pragma once

#include "core/dtype.hpp"

namespace strata::host {

/// Multiply-adds in registers on so many threads; returns their number of FLOPs.
double multiply_add(int threads, DType dtype);

}  // namespace strata::host
