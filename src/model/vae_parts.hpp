#pragma once
// The two halves of AutoencoderKL, inference only.

#include <optional>

#include "model/attention.hpp"
#include "model/chain.hpp"
#include "model/resblock.hpp"
#include "model/vae.hpp"

namespace strata {

/// config.json's `force_upcast` and `sample_size` are not here: precision and tiles are chosen by
/// the caller.
struct VaeConfig {
  std::int64_t image_channels = 3, latent_channels = 4;
  std::vector<std::int64_t> block_out_channels;  // finest level first
  std::int64_t layers_per_block = 1;
  std::int64_t norm_num_groups = 32;
  bool mid_attention = true;
  bool old_attention_names = false;  // query, key, value, proj_attn
  bool quant_conv = true, post_quant_conv = true;
  LatentScaling scaling;

  int levels() const { return static_cast<int>(block_out_channels.size()); }
  /// Error(65) names the key and the value that is malformed or not supported.
  static VaeConfig from_json_file(const std::string& path);
};

/// Two residual blocks with single-head attention over all pixels between them.
class VaeMiddle {
 public:
  VaeMiddle(ParameterTable&, const std::string& name, const VaeConfig&);
  /// x (B,h,w,C), the chain's last tensor -> the chain's next.
  Tensor forward(Exec&, const Weights&, Tensor x, Chain&) const;

 private:
  Tensor attend(Exec&, const Weights&, Tensor x, Tensor y) const;

  std::vector<ResBlock> resblocks_;
  std::optional<GroupNorm> norm_;
  Attention attention_;
};

class VaeEncoder {
 public:
  VaeEncoder(ParameterTable&, const VaeConfig&);
  /// image (B,H,W,3) T -> moments (B,h,w,2*latent_channels) T
  Tensor forward(Exec&, const Weights&, Tensor image) const;

 private:
  struct Level {
    std::vector<ResBlock> resblocks;
    std::optional<Conv2d> downsampler;
  };

  Conv2d conv_in_, conv_out_;
  std::vector<Level> levels_;
  std::optional<VaeMiddle> middle_;
  GroupNorm norm_out_;
  std::optional<Linear> quant_;
};

class VaeDecoder {
 public:
  VaeDecoder(ParameterTable&, const VaeConfig&);
  /// latent (B,h,w,latent_channels) T -> image (B,H,W,3) T
  Tensor forward(Exec&, const Weights&, Tensor latent) const;

 private:
  struct Level {
    std::vector<ResBlock> resblocks;
    std::optional<Conv2d> upsampler;
  };

  Conv2d conv_in_, conv_out_;
  std::vector<Level> levels_;  // finest first, as the encoder's
  std::optional<VaeMiddle> middle_;
  GroupNorm norm_out_;
  std::optional<Linear> post_quant_;
};

}  // namespace strata
