#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// A U-Net of the Stable Diffusion 1 and 2 family, as diffusers' UNet2DConditionModel describes it.
/// Lists have one entry a resolution level, finest first.
struct UNetConfig {
  std::int64_t sample_height = 64, sample_width = 64;  // the size `describe` counts FLOPs at
  std::int64_t in_channels = 4, out_channels = 4;
  std::vector<std::int64_t> block_out_channels{320, 640, 1280, 1280};
  std::vector<bool> down_attention{true, true, true, false};  // CrossAttnDownBlock2D or DownBlock2D
  std::vector<bool> up_attention{true, true, true, false};    // of the up block at that level
  std::vector<std::int64_t> layers_per_block{2, 2, 2, 2};
  std::vector<std::int64_t> transformer_layers{1, 1, 1, 1};
  std::vector<std::int64_t> heads{5, 10, 20, 20};
  std::int64_t norm_num_groups = 32;
  float norm_eps = 1e-5f;
  std::int64_t cross_attention_dim = 1024;
  bool use_linear_projection = true;
  bool upcast_attention = false;  // scores are always computed in f32; kept for export
  bool flip_sin_to_cos = true;
  float freq_shift = 0;
  std::int64_t encoder_hid_dim = 0;    // width of the text before `encoder_hid_proj`; 0: none
  bool encoder_hid_proj_bias = false;  // only weights made elsewhere have one
  std::int64_t pooled_dim = 0;         // pooled vector of class_embed_type "projection"; 0: none

  int levels() const { return static_cast<int>(block_out_channels.size()); }
  std::int64_t time_embedding_dim() const { return 4 * block_out_channels[0]; }
  /// Width of the tokens that `UNet::forward` takes.
  std::int64_t text_dim() const { return encoder_hid_dim ? encoder_hid_dim : cross_attention_dim; }

  /// Error(65) names the key and the value that is missing, malformed or not supported.
  static UNetConfig from_json_file(const std::string& path);
  /// The same for the text of such a file, kept somewhere in `path`.
  static UNetConfig from_json(std::string_view json, const std::string& path);
  /// The config.json of a module's folder, with the bias of `encoder_hid_proj` where its weights
  /// have one.
  static UNetConfig from_folder(const std::string& dir);
  /// `config.json` as diffusers reads it.
  std::string to_json() const;
};

}  // namespace strata
