#include "model/diffusers_folder.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "core/safetensors.hpp"
#include "model/unet.hpp"
#include "model/weights.hpp"

namespace strata {

namespace {

constexpr const char* stem = "diffusion_pytorch_model";
constexpr std::string_view projection_bias = "encoder_hid_proj.bias";
constexpr std::uint64_t max_config_bytes = std::uint64_t{1} << 20;

constexpr std::array<std::pair<DType, std::string_view>, 3> stored_types{
    {{DType::f32, "F32"}, {DType::f16, "F16"}, {DType::bf16, "BF16"}}};

DType stored_type(std::string_view name, const std::string& path) {
  for (const auto& [dtype, stored] : stored_types)
    if (stored == name) return dtype;
  fail(Exit::data, "{}: {} is neither F32, F16 nor BF16", path, name);
}

std::string_view stored_name(DType dtype) {
  for (const auto& [known, stored] : stored_types)
    if (known == dtype) return stored;
  fail(Exit::internal, "no stored type");
}

Buffer narrowed(Buffer wide, DType dtype) {
  if (dtype == DType::f32) return wide;
  Buffer narrow(dtype, wide.tensor().shape);
  const float* from = wide.as<float>();
  auto* to = reinterpret_cast<std::uint16_t*>(narrow.tensor().data);
  for (std::int64_t i = 0, n = wide.tensor().numel(); i < n; ++i)
    to[i] = dtype == DType::bf16 ? to_bf16(from[i]).bits : float_to_half(from[i]);
  return narrow;
}

// As diffusers orders the values: a file's own order, not the names'.
UNetFileLayout layout_of(const std::string& folder, const SafetensorsFolder& files) {
  UNetFileLayout layout;
  layout.config = read_file(folder + "/config.json", max_config_bytes);
  std::vector<std::string> names = files.names();
  const std::string single = folder + "/" + stem + ".safetensors";
  if (file_exists(single)) {
    layout.metadata = SafetensorsFile(single).metadata();
    std::ranges::stable_sort(names, {},
                             [&](const std::string& name) { return files.entry(name).begin; });
  }
  for (const auto& name : names)
    layout.tensors.emplace_back(name, stored_type(files.entry(name).dtype, folder + ": " + name));
  return layout;
}

// The file's tensor `name` in f32: the table's, or the bias of zeros that it does without.
Buffer exported(const std::string& name, const ParameterTable& table, const Weights& weights) {
  const ParamId id = table.find(name);
  if (id != no_param) {
    Buffer values(DType::f32, table[id].shape);
    export_parameter(table[id], values, weights[id]);
    return values;
  }
  const ParamId weight = table.find("encoder_hid_proj.weight");
  if (name != projection_bias || weight == no_param)
    fail(Exit::data, "layout: tensor {} is not part of the model", name);
  return Buffer::zeros(DType::f32, {table[weight].shape[0]});
}

}  // namespace

std::string UNetFileLayout::to_json() const {
  nlohmann::ordered_json json{{"config", config}, {"metadata", metadata}};
  auto& list = json["tensors"] = nlohmann::ordered_json::array();
  for (const auto& [name, dtype] : tensors) list.push_back({name, stored_name(dtype)});
  return json.dump();
}

UNetFileLayout UNetFileLayout::from_json(std::string_view text, const std::string& path) {
  const nlohmann::json json = parse_json(text, path);
  UNetFileLayout layout;
  try {
    layout.config = json.at("config").get<std::string>();
    layout.metadata = json.at("metadata").get<std::map<std::string, std::string>>();
    for (const auto& [name, dtype] :
         json.at("tensors").get<std::vector<std::pair<std::string, std::string>>>())
      layout.tensors.emplace_back(name, stored_type(dtype, path + ": " + name));
  } catch (const nlohmann::json::exception& error) {
    fail(Exit::data, "{}: {:.200}", path, error.what());
  }
  return layout;
}

UNetFileLayout default_layout(const UNetConfig& config, const ParameterTable& table, DType dtype) {
  UNetFileLayout layout{config.to_json(), {{"format", "pt"}}, {}};
  for (ParamId id = 0; id < table.size(); ++id) {
    layout.tensors.emplace_back(table[id].name, dtype);
    if (table[id].name == "encoder_hid_proj.weight" && table.find(projection_bias) == no_param)
      layout.tensors.emplace_back(projection_bias, dtype);
  }
  return layout;
}

void write_unet_folder(const std::string& dir, const ParameterTable& table, Tensor flat,
                       const UNetFileLayout& layout) {
  if (std::filesystem::exists(std::filesystem::symlink_status(dir)))
    fail(Exit::cannot_create, "{}: exists already", dir);
  SafetensorsWriter writer;
  writer.set_metadata(layout.metadata);
  const Weights weights(table, flat);
  std::size_t known = 0;
  for (const auto& [name, dtype] : layout.tensors) {
    known += table.find(name) != no_param ? 1 : 0;
    writer.add(name, narrowed(exported(name, table, weights), dtype));
  }
  if (known != static_cast<std::size_t>(table.size()))
    fail(Exit::data, "layout: {} of the model's {} tensors", known, table.size());
  const std::string partial = fmt::format("{}.partial-{}", dir, ::getpid());
  make_directories(partial);
  writer.write(partial + "/" + stem + ".safetensors");
  write_file_atomically(partial + "/config.json", layout.config);
  std::error_code error;
  std::filesystem::rename(partial, dir, error);
  if (error) fail(Exit::cannot_create, "{}: rename: {}", dir, error.message());
}

LoadedUNet read_unet_folder(const std::string& dir) {
  const std::string folder = module_folder(dir, "unet");
  LoadedUNet loaded{UNetConfig::from_folder(folder), {}, {}, {}};
  const SafetensorsFolder files(folder, stem);
  if (loaded.config.encoder_hid_proj_bias && is_zero(files.read_f32(std::string(projection_bias))))
    loaded.config.encoder_hid_proj_bias = false;
  const UNet unet(loaded.config);
  loaded.flat = load_parameters(unet.parameters(), files);
  loaded.sha256 = files.sha256();
  loaded.layout = layout_of(folder, files);
  return loaded;
}

}  // namespace strata
