#pragma once

#include "model/attention.hpp"

namespace strata {

/// diffusers' BasicTransformerBlock: self-attention (or, text_only, attention to the text once
/// more), cross-attention, GEGLU feed-forward, each behind a LayerNorm and around a residual
/// connection.
class TransformerBlock {
 public:
  struct Config {
    std::int64_t width, heads, context;
    bool text_only = false;
  };
  struct Saved {
    Tensor x, stats1, after_first, stats2, after_cross, stats3, normed3, gate_in, gated;
    Attention::Saved first, cross;
  };

  TransformerBlock(ParameterTable&, const std::string& name, const Config&);

  /// x (T,width), text (Tk,context) -> (T,width), in y where given.
  Tensor forward(Exec&, const Weights&, Ragged x, Ragged text, Saved*, Tensor y = {}) const;
  /// dy -> dx; dtext (Tk,context) f32 is accumulated unless absent.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dx, Tensor dtext,
                Tensor dy) const;
  void count(Flops&, double pixels, double tokens) const;

 private:
  LayerNorm norm1_, norm2_, norm3_;
  Attention first_, cross_;
  Linear expand_, contract_;
  std::int64_t inner_;
  bool text_only_;
};

/// diffusers' Transformer2DModel: GroupNorm, projection, transformer blocks, projection, residual.
/// Between the projections the width is that of the heads together: channels, where they divide it.
class SpatialTransformer {
 public:
  struct Config {
    std::int64_t channels, heads, context, layers, groups;
    bool linear_projection, text_only = false;
  };
  struct Saved {
    Tensor x, stats, normed, projected;
    std::vector<std::int64_t> offsets;  // of the pixels of each image
    std::vector<TransformerBlock::Saved> blocks;
  };

  SpatialTransformer(ParameterTable&, const std::string& name, const Config&);

  /// x (B,H,W,channels), text of B sequences -> (B,H,W,channels), in y where given.
  Tensor forward(Exec&, const Weights&, Tensor x, Ragged text, Saved*, Tensor y = {}) const;
  /// dy -> dx; dtext f32 is accumulated unless absent.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dx, Tensor dtext,
                Tensor dy) const;
  void count(Flops&, double pixels, double tokens) const;
  std::span<const ParamId> ids() const { return ids_; }

 private:
  GroupNorm norm_;
  Linear proj_in_, proj_out_;
  std::vector<TransformerBlock> blocks_;
  std::vector<ParamId> ids_;
};

}  // namespace strata
