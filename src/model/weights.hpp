#pragma once
// Parameters from nowhere (initialisation) and from files.

#include "core/safetensors.hpp"
#include "model/parameters.hpp"

namespace strata {

/// PyTorch's default initialisation: linear and convolution weights and their biases uniform in
/// +-1/sqrt(fan_in), norms 1 and 0. Every value is a pure function of (seed, parameter's name,
/// index in the file's layout). flat: f32 on the host, laid out by the table.
void initialize(const ParameterTable&, Tensor flat, std::uint64_t seed);

/// Error(65) unless the folder holds exactly the table's names with their shapes. A bias of
/// `encoder_hid_proj` that is zero throughout may be there without being in the table.
void check_parameters(const ParameterTable&, const SafetensorsFolder&);
/// check_parameters, then reads every tensor into flat (f32 or bf16, host).
void load_parameters(const ParameterTable&, Tensor flat, const SafetensorsFolder&);
/// The same into a new flat buffer, allocated only after the check.
Buffer load_parameters(const ParameterTable&, const SafetensorsFolder&, DType = DType::f32);

/// Whether an f32 host buffer holds nothing but zeros.
bool is_zero(const Buffer& values);

/// A flat host buffer, f32 or already of the compute type (f32 or bf16), in that type on a device.
Buffer convert_parameters(Buffer flat, DType compute, Device device);

/// `dir` itself, or `dir/module` when that holds a config.json and dir does not. Error(65) if
/// neither.
std::string module_folder(const std::string& dir, const std::string& module);

}  // namespace strata
