#pragma once
// What the machine does at most, measured by the process that compares itself with it. The
// functions are implemented by kernels/, which alone knows the machine.

#include "core/exec.hpp"

namespace strata {

/// FLOP/s. On the host: independent chains of the widest multiply-adds in registers, on all of
/// exec's threads; of bf16, sums of pairs of products where the CPU has them (AVX512_BF16) and else
/// the f32 chains. On a device: its vendor's best of some large matrix products. Takes about half a
/// second.
double compute_peak(Exec& exec, DType dtype);

/// Bytes a second, read and written, of going once through 128 MiB and writing as much.
double copy_peak(Exec& exec);

}  // namespace strata
