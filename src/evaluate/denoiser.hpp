#pragma once
// A trained U-Net wherever it comes from: a diffusers folder, or one of our checkpoints.

#include <optional>
#include <string>

#include "core/buffer.hpp"
#include "diffusion/sampler_config.hpp"
#include "model/diffusers_folder.hpp"

namespace strata {

/// How the captions were encoded that a U-Net was trained on.
struct TextSettings {
  std::string strategy = "last";
  std::string attention = "auto";
  std::int64_t max_tokens = 0;  // 0: the family's default
  bool pooled = false;
};

/// "auto" is ema where the checkpoint has it, else master.
enum class WeightKind { automatic, master, ema };
WeightKind weight_kind(const std::string& name);  // Error(64)

struct Denoiser {
  UNetConfig config;
  Buffer flat;  // `dtype`, host, in the order of UNet(config).parameters()
  std::string scheduler = SamplerConfig().to_json();  // a scheduler_config.json
  std::string path;                      // of the scheduler's text and of the weights, for messages
  std::string hash;                      // of the checkpoint's manifest or of the weight files
  WeightKind kind = WeightKind::master;  // which weights of a checkpoint these are
  std::optional<TextSettings> text;      // a checkpoint knows them
  std::optional<UNetFileLayout> layout;  // of the diffusers folder that the weights once came from

  SamplerConfig sampler(SamplerKind sampler_kind) const;  // Error(65) as of the file
};

/// path: a checkpoint, `checkpoints` or run folder (the newest valid checkpoint is taken), or the
/// folder of a diffusers U-Net or pipeline. dtype: f32 or bf16. Without a scheduler_config.json the
/// recipe's is taken. Error(65), (66), (78).
Denoiser load_denoiser(const std::string& path, DType dtype, WeightKind kind);

}  // namespace strata
