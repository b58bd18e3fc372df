#include "model/diffusers_folder.hpp"

#include <unistd.h>

#include <filesystem>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "model/unet.hpp"
#include "model/weights.hpp"

namespace strata {

namespace {

constexpr const char* stem = "diffusion_pytorch_model";
constexpr const char* projection_weight = "encoder_hid_proj.weight";
constexpr const char* projection_bias = "encoder_hid_proj.bias";

Buffer narrowed(Buffer wide, DType dtype) {
  if (dtype == DType::f32) return wide;
  Buffer narrow(dtype, wide.tensor().shape);
  const float* from = wide.as<float>();
  auto* to = reinterpret_cast<std::uint16_t*>(narrow.tensor().data);
  for (std::int64_t i = 0, n = wide.tensor().numel(); i < n; ++i)
    to[i] = dtype == DType::bf16 ? to_bf16(from[i]).bits : float_to_half(from[i]);
  return narrow;
}

}  // namespace

void write_unet_folder(const std::string& dir, const UNetConfig& config,
                       const ParameterTable& table, Tensor flat, DType dtype) {
  if (std::filesystem::exists(std::filesystem::symlink_status(dir)))
    fail(Exit::cannot_create, "{}: exists already", dir);
  SafetensorsWriter writer;
  writer.set_metadata({{"format", "pt"}});
  const Weights weights(table, flat);
  for (ParamId id = 0; id < table.size(); ++id) {
    const Parameter& parameter = table[id];
    Buffer file(DType::f32, parameter.shape);
    export_parameter(parameter, file, weights[id]);
    writer.add(parameter.name, narrowed(std::move(file), dtype));
    if (parameter.name == projection_weight && table.find(projection_bias) == no_param)
      writer.add(projection_bias, narrowed(Buffer::zeros(DType::f32, {parameter.shape[0]}), dtype));
  }
  const std::string partial = fmt::format("{}.partial-{}", dir, ::getpid());
  make_directories(partial);
  writer.write(partial + "/" + stem + ".safetensors");
  write_file_atomically(partial + "/config.json", config.to_json());
  std::error_code error;
  std::filesystem::rename(partial, dir, error);
  if (error) fail(Exit::cannot_create, "{}: rename: {}", dir, error.message());
}

LoadedUNet read_unet_folder(const std::string& dir) {
  const std::string folder = module_folder(dir, "unet");
  LoadedUNet loaded{UNetConfig::from_folder(folder), {}, {}};
  const SafetensorsFolder files(folder, stem);
  if (loaded.config.encoder_hid_proj_bias && is_zero(files.read_f32(projection_bias)))
    loaded.config.encoder_hid_proj_bias = false;
  const UNet unet(loaded.config);
  loaded.flat = load_parameters(unet.parameters(), files);
  loaded.sha256 = files.sha256();
  return loaded;
}

}  // namespace strata
