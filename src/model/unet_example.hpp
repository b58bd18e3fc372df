#pragma once
// A batch from a file, as `strata eval unet` takes it, through the U-Net and back.

#include <optional>

#include "core/safetensors.hpp"
#include "model/unet.hpp"

namespace strata {

/// One batch on the host, f32, images as in the file (NCHW).
struct UNetExample {
  Buffer sample;     // (B,in_channels,H,W)
  Buffer timesteps;  // (B)
  Buffer tokens;     // (T,text_dim), tokens whose mask is 0 left out; any width if unattended
  Buffer offsets;    // (B+1) i64
  Buffer pooled;     // (B,pooled_dim), absent without one
  Buffer target;     // (B,out_channels,H,W), absent unless asked for

  /// `sample`, `timestep` (B) or one for all, `encoder_hidden_states` (B,T,D);
  /// `encoder_attention_mask` (B,T) optional; `class_labels` (B,P) where the config has a pooled
  /// vector; with_target: `target`. Error(65) names the tensor that is missing or does not fit.
  static UNetExample read(const SafetensorsFile&, const UNetConfig&, bool with_target);
};

struct UNetOutcome {
  Buffer prediction;  // (B,out_channels,H,W) f32 on the host
  double loss = 0;    // mean((prediction - target)^2), with gradients only
};

/// weights: f32 or bf16; activations have their type. gradients null: inference. recompute: as in
/// UNet::Saved.
UNetOutcome run(Exec&, const UNet&, const Weights&, const UNetExample&, Gradients* gradients,
                bool recompute = false);

}  // namespace strata
