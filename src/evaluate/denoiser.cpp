#include "evaluate/denoiser.hpp"

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "model/unet.hpp"
#include "model/weights.hpp"
#include "train/checkpoint.hpp"

namespace strata {

namespace {

using nlohmann::json;

template <class T>
T member(const json& object, const char* key, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end()) fail(Exit::data, "{}: host state: {} is missing", path, key);
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    fail(Exit::data, "{}: host state: {}: unexpected value {:.80}", path, key, found->dump());
  }
}

Denoiser from_checkpoint(const std::string& path, DType dtype, WeightKind kind) {
  const auto reader = CheckpointReader::open(path);
  const CheckpointInfo& info = reader.info();
  const std::string where = info.path + "/MANIFEST.json";
  const json host = parse_json(info.host_json, where);

  Denoiser denoiser;
  denoiser.path = where;
  denoiser.config = UNetConfig::from_json(member<json>(host, "unet", where).dump(), where);
  for (const auto& tensor : reader.tensors())
    if (tensor.name == "encoder_hid_proj.bias") denoiser.config.encoder_hid_proj_bias = true;
  denoiser.scheduler = member<std::string>(host, "scheduler", where);
  denoiser.hash = info.manifest_hash;
  denoiser.text = TextSettings{member<std::string>(host, "text_strategy", where),
                               member<std::string>(host, "text_attention", where),
                               member<std::int64_t>(host, "text_max_tokens", where),
                               member<bool>(host, "pooled", where)};
  if (host.contains("layout"))
    denoiser.layout =
        UNetFileLayout::from_json(member<std::string>(host, "layout", where), where + ": layout");
  const UNet unet(denoiser.config);
  denoiser.flat = Buffer(dtype, {unet.parameters().numel()});
  const bool use_ema =
      kind == WeightKind::ema || (kind == WeightKind::automatic && reader.has("ema"));
  denoiser.kind = use_ema ? WeightKind::ema : WeightKind::master;
  reader.read_flat(unet.parameters(), use_ema ? "ema" : "master", denoiser.flat);
  return denoiser;
}

Denoiser from_diffusers(const std::string& path, DType dtype) {
  auto loaded = read_unet_folder(path);
  Denoiser denoiser;
  denoiser.path = path;
  denoiser.config = std::move(loaded.config);
  denoiser.hash = std::move(loaded.sha256);
  denoiser.layout = std::move(loaded.layout);
  if (file_exists(path + "/scheduler/scheduler_config.json"))
    denoiser.scheduler = read_scheduler_file(path);
  denoiser.flat = convert_parameters(std::move(loaded.flat), dtype, host_device);
  return denoiser;
}

}  // namespace

WeightKind weight_kind(const std::string& name) {
  if (name == "auto") return WeightKind::automatic;
  if (name == "master") return WeightKind::master;
  if (name == "ema") return WeightKind::ema;
  fail(Exit::usage, "--weights {}: neither auto, master nor ema", name);
}

SamplerConfig Denoiser::sampler(SamplerKind sampler_kind) const {
  return SamplerConfig::from_json(scheduler, path + ": scheduler_config.json", sampler_kind);
}

Denoiser load_denoiser(const std::string& path, DType dtype, WeightKind kind) {
  if (file_exists(path + "/config.json") || file_exists(path + "/unet/config.json"))
    return from_diffusers(path, dtype);
  return from_checkpoint(path, dtype, kind);
}

}  // namespace strata
