#pragma once
// Tensors between the host and a device.

#include <vector>

#include "core/exec.hpp"

namespace strata {

/// The tensor itself where it lies on exec's device, otherwise a copy of it in exec's arena.
Tensor on_device(Exec& exec, Tensor tensor);

/// The elements of an f32 or bf16 tensor, after all ops that were called before.
std::vector<float> to_host(Tensor tensor);

}  // namespace strata
