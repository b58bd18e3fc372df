#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// A U-Net of the Stable Diffusion 1 and 2 family, as diffusers' UNet2DConditionModel describes it.
/// Lists have one entry a resolution level, finest first.
struct UNetConfig {
  /// Residual block, transformer, residual block; one residual block; nothing.
  enum class Middle { cross_attention, residual, none };
  /// Transformer blocks of a level: one number for all its stages, or one a stage.
  using Depths = std::vector<std::vector<std::int64_t>>;

  std::int64_t sample_height = 64, sample_width = 64;  // the size `describe` counts FLOPs at
  std::int64_t in_channels = 4, out_channels = 4;
  std::int64_t conv_in_kernel = 3, conv_out_kernel = 3;  // odd
  std::vector<std::int64_t> block_out_channels{320, 640, 1280, 1280};
  std::vector<bool> down_attention{true, true, true, false};  // CrossAttnDownBlock2D or DownBlock2D
  std::vector<bool> up_attention{true, true, true, false};    // of the up block at that level
  Middle middle = Middle::cross_attention;
  std::vector<std::int64_t> layers_per_block{2, 2, 2, 2};
  Depths transformer_layers{{1}, {1}, {1}, {1}};  // the middle's is the last level's first
  Depths up_transformer_layers{};                 // empty: as transformer_layers
  std::vector<bool> only_cross_attention{false, false, false, false};  // never in the middle
  std::vector<std::int64_t> heads{5, 10, 20, 20};
  std::int64_t norm_num_groups = 32;
  float norm_eps = 1e-5f;
  std::int64_t cross_attention_dim = 1024;
  bool use_linear_projection = true;
  bool upcast_attention = false;        // scores are always computed in f32; kept for export
  std::int64_t downsample_padding = 1;  // 0: only below and to the right
  bool center_input_sample = false;     // the sample goes from [0,1] to [-1,1]
  bool flip_sin_to_cos = true;
  float freq_shift = 0;
  std::int64_t time_width = 0;         // of the time embedding; 0: 4 * block_out_channels[0]
  std::int64_t encoder_hid_dim = 0;    // width of the text before `encoder_hid_proj`; 0: none
  bool encoder_hid_proj_bias = false;  // only weights made elsewhere have one
  std::int64_t pooled_dim = 0;         // pooled vector of class_embed_type "projection"; 0: none

  int levels() const { return static_cast<int>(block_out_channels.size()); }
  std::int64_t time_embedding_dim() const {
    return time_width ? time_width : 4 * block_out_channels[0];
  }
  /// Width of the tokens that `UNet::forward` takes.
  std::int64_t text_dim() const { return encoder_hid_dim ? encoder_hid_dim : cross_attention_dim; }
  /// Whether the text is looked at anywhere.
  bool attends() const;
  /// Whether some attention takes the text in the place of the image itself. diffusers lets that
  /// one see masked tokens too.
  bool replaces_self_attention() const;

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
