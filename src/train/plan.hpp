#pragma once

#include "dist/zero2.hpp"
#include "train/microbatch.hpp"
#include "train/step.hpp"

namespace strata {

/// FLOP/s of a matrix product (1024 x 1024 x 1024) on this rank just now: the scale of `mfu` and of
/// the dry run's estimate. Takes a fraction of a second.
double measured_matmul_rate(Exec& exec, DType dtype);

/// What the passes of one microbatch take of a device, found by running them on counted memory.
struct PassMemory {
  std::int64_t activations = 0;  // highest use of the arena
  std::int64_t arena = 0;        // its chunks: what is taken of the device
  /// Of one op at a time, on top: what cuDNN asks for is known on a device only, so an estimate.
  std::int64_t workspace = 0;
  Feed::Cost input{};  // the microbatch itself
};
PassMemory pass_memory(const UNet& unet, const MicrobatchShape& shape, std::int64_t rows,
                       bool recompute);

}  // namespace strata
