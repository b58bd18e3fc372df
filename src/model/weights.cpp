#include "model/weights.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/file.hpp"
#include "core/rng.hpp"

namespace strata {

namespace {

constexpr std::string_view optional_zero_bias = "encoder_hid_proj.bias";

/// Half the width of the uniform distribution, or a constant.
struct Initial {
  bool uniform = false;
  float value = 0;
};

float bound_of(const Parameter& weight) {
  return 1.0f / std::sqrt(static_cast<float>(weight.numel() / weight.shape[0]));
}

Initial initial_of(const ParameterTable& table, const Parameter& parameter) {
  if (parameter.shape.rank() >= 2) return {true, bound_of(parameter)};
  if (parameter.name.ends_with(".weight")) return {false, 1.0f};  // of a norm
  const std::string stem = parameter.name.substr(0, parameter.name.rfind('.'));
  const ParamId weight = table.find(stem + ".weight");
  if (weight == no_param || table[weight].shape.rank() < 2) return {false, 0.0f};
  return {true, bound_of(table[weight])};
}

void fill_uniform(float* values, std::int64_t count, float bound, PhiloxKey key, PhiloxCounter at) {
  for (std::int64_t i = 0; i < count; i += 4) {
    const auto words = random_block(key, at, static_cast<std::uint32_t>(i / 4));
    const std::int64_t in_block = std::min<std::int64_t>(4, count - i);
    for (std::int64_t j = 0; j < in_block; ++j)
      values[i + j] = bound * (2.0f * uniform01(words[static_cast<std::size_t>(j)]) - 1.0f);
  }
}

bool same_shape(const std::vector<std::int64_t>& file, const Shape& shape) {
  return std::equal(file.begin(), file.end(), shape.begin(), shape.end());
}

}  // namespace

bool is_zero(const Buffer& values) {
  const float* begin = values.as<float>();
  return std::all_of(begin, begin + values.tensor().numel(), [](float x) { return x == 0.0f; });
}

void initialize(const ParameterTable& table, Tensor flat, std::uint64_t seed) {
  STRATA_CHECK(flat.numel() == table.numel() && flat.dtype == DType::f32);
  const Weights weights(table, flat);
  for (ParamId id = 0; id < table.size(); ++id) {
    const Parameter& parameter = table[id];
    const Initial initial = initial_of(table, parameter);
    const std::int64_t count = parameter.numel();
    Buffer values(DType::f32, {count});
    if (initial.uniform)
      fill_uniform(values.as<float>(), count, initial.value, {seed},
                   {xxh3(parameter.name), 0, Purpose::initialize});
    else
      std::fill_n(values.as<float>(), count, initial.value);
    import_parameter(parameter, weights[id], values);
  }
}

void check_parameters(const ParameterTable& table, const SafetensorsFolder& folder) {
  for (ParamId id = 0; id < table.size(); ++id) {
    const Parameter& parameter = table[id];
    if (!folder.contains(parameter.name))
      fail(Exit::data, "{}: tensor {} is missing", folder.path(), parameter.name);
    const auto& entry = folder.entry(parameter.name);
    if (!same_shape(entry.shape, parameter.shape))
      fail(Exit::data, "{}: tensor {} has shape ({}), config.json says {}", folder.path(),
           parameter.name, fmt::join(entry.shape, ", "), to_string(parameter.shape));
  }
  for (const auto& name : folder.names()) {
    if (table.find(name) != no_param) continue;
    if (name == optional_zero_bias && is_zero(folder.read_f32(name))) continue;
    fail(Exit::data, "{}: tensor {} is not part of the model of config.json", folder.path(), name);
  }
}

void load_parameters(const ParameterTable& table, Tensor flat, const SafetensorsFolder& folder) {
  check_parameters(table, folder);
  const Weights weights(table, flat);
  for (ParamId id = 0; id < table.size(); ++id)
    import_parameter(table[id], weights[id], folder.read_f32(table[id].name));
}

Buffer load_parameters(const ParameterTable& table, const SafetensorsFolder& folder, DType dtype) {
  check_parameters(table, folder);
  Buffer flat(dtype, {table.numel()});
  load_parameters(table, flat, folder);
  return flat;
}

Buffer convert_parameters(Buffer flat, DType compute, Device device) {
  const Tensor from = flat;
  if (compute == DType::bf16 && from.dtype == DType::f32) {
    Buffer narrow(compute, from.shape);
    std::transform(from.as<float>(), from.as<float>() + from.numel(), narrow.as<bf16>(), to_bf16);
    flat = std::move(narrow);
  }
  if (device == host_device) return flat;
  Buffer there(compute, from.shape, device);
  memory::copy(there.tensor().data, device, flat.tensor().data, host_device, flat.tensor().bytes());
  return there;
}

std::string module_folder(const std::string& dir, const std::string& module) {
  const std::string inner = dir + "/" + module;
  if (file_exists(inner + "/config.json")) return inner;
  if (file_exists(dir + "/config.json")) return dir;
  fail(Exit::data, "{}: neither config.json nor {}/config.json is there", dir, module);
}

}  // namespace strata
