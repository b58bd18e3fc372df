#include "evaluate/denoiser.hpp"

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "model/diffusers_folder.hpp"
#include "model/unet.hpp"
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

ScheduleConfig schedule_of(const json& diffusion, const std::string& path) {
  ScheduleConfig schedule;
  schedule.timesteps = member<int>(diffusion, "timesteps", path);
  schedule.beta_start = member<double>(diffusion, "beta_start", path);
  schedule.beta_end = member<double>(diffusion, "beta_end", path);
  const bool is_linear = member<std::string>(diffusion, "beta_schedule", path) == "linear";
  schedule.beta_schedule = is_linear ? BetaSchedule::linear : BetaSchedule::scaled_linear;
  const bool is_v = member<std::string>(diffusion, "prediction", path) == "v_prediction";
  schedule.prediction = is_v ? Prediction::v_prediction : Prediction::epsilon;
  return schedule;
}

Denoiser from_checkpoint(const std::string& path, DType dtype, WeightKind kind) {
  const auto reader = CheckpointReader::open(path);
  const CheckpointInfo& info = reader.info();
  const std::string where = info.path + "/MANIFEST.json";
  const json host = parse_json(info.host_json, where);

  Denoiser denoiser;
  denoiser.config = UNetConfig::from_json(member<json>(host, "unet", where).dump(), where);
  for (const auto& tensor : reader.tensors())
    if (tensor.name == "encoder_hid_proj.bias") denoiser.config.encoder_hid_proj_bias = true;
  denoiser.sampler.schedule =
      NoiseSchedule(schedule_of(member<json>(host, "diffusion", where), where));
  denoiser.hash = info.manifest_hash;
  denoiser.text = TextSettings{member<std::string>(host, "text_strategy", where),
                               member<std::string>(host, "text_attention", where),
                               member<std::int64_t>(host, "text_max_tokens", where),
                               member<bool>(host, "pooled", where)};
  const UNet unet(denoiser.config);
  denoiser.flat = Buffer(dtype, {unet.parameters().numel()});
  const bool use_ema =
      kind == WeightKind::ema || (kind == WeightKind::automatic && reader.has("ema"));
  reader.read_flat(unet.parameters(), use_ema ? "ema" : "master", denoiser.flat);
  return denoiser;
}

Denoiser from_diffusers(const std::string& path, DType dtype) {
  auto loaded = read_unet_folder(path);
  Denoiser denoiser;
  denoiser.config = std::move(loaded.config);
  denoiser.hash = std::move(loaded.sha256);
  const std::string scheduler = path + "/scheduler/scheduler_config.json";
  if (file_exists(scheduler))
    denoiser.sampler = SamplerConfig::from_json_file(scheduler, SamplerKind::ddim);
  if (dtype == DType::f32) {
    denoiser.flat = std::move(loaded.flat);
    return denoiser;
  }
  denoiser.flat = Buffer(dtype, loaded.flat.tensor().shape);
  const float* from = loaded.flat.as<float>();
  bf16* to = denoiser.flat.as<bf16>();
  for (std::int64_t i = 0, n = denoiser.flat.tensor().numel(); i < n; ++i) to[i] = to_bf16(from[i]);
  return denoiser;
}

}  // namespace

WeightKind weight_kind(const std::string& name) {
  if (name == "auto") return WeightKind::automatic;
  if (name == "master") return WeightKind::master;
  if (name == "ema") return WeightKind::ema;
  fail(Exit::usage, "--weights {}: neither auto, master nor ema", name);
}

Denoiser load_denoiser(const std::string& path, DType dtype, WeightKind kind) {
  if (file_exists(path + "/config.json") || file_exists(path + "/unet/config.json"))
    return from_diffusers(path, dtype);
  return from_checkpoint(path, dtype, kind);
}

}  // namespace strata
