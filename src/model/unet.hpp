#pragma once
// The denoiser: a U-Net with cross-attention to text (Rombach et al., CVPR 2022), as diffusers'
// UNet2DConditionModel computes it.

#include "model/embedding.hpp"
#include "model/unet_blocks.hpp"
#include "model/unet_config.hpp"

namespace strata {

/// The captions of a batch, masked tokens left out. An empty range attends to nothing: attention
/// gives 0 before its output projection.
struct TextBatch {
  Tensor tokens;   // (T, text_dim) T, all captions laid end to end
  Tensor offsets;  // (B+1) i64 on the host, or with `longest` on the device
  /// Tokens of any caption, at least. Tokens behind the last caption are nobody's and must be 0.
  std::int64_t longest = 0;
};

class UNet {
 public:
  /// Activations that backward needs. They live in exec's arena, and sample, text and pooled are
  /// referred to: the caller keeps all of them until backward is done.
  struct Saved {
    bool recompute = false;  // set before forward: stages keep nothing and run again in backward
    VectorEmbedding::Saved time, pooled;
    Conditions conditions;
    Tensor embedding, sample, tokens, last, last_stats, last_normed;
    std::vector<DownBlock::Saved> down;
    std::vector<Stage::Saved> middle;
    std::vector<Tensor> middle_inputs;
    std::vector<UpBlock::Saved> up;
  };

  explicit UNet(UNetConfig config);

  /// The flat order is the order in which backward completes the gradients: last layers first, then
  /// the time MLP, the pooled embedding and the text projection.
  const ParameterTable& parameters() const { return table_; }
  const UNetConfig& config() const { return config_; }

  /// sample (B,H,W,in_channels) T, timesteps (B) f32, pooled (B,pooled_dim) T or absent
  /// -> prediction (B,H,W,out_channels) T. saved null: inference, only the prediction is kept.
  Tensor forward(Exec&, const Weights&, Tensor sample, Tensor timesteps, const TextBatch&,
                 Tensor pooled, Saved* saved) const;
  /// Accumulates every parameter's gradient, telling `gradients` layer by layer.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dprediction) const;

  /// One sample of height x width with so many text tokens.
  Flops flops(std::int64_t height, std::int64_t width, std::int64_t tokens) const;

 private:
  /// transformer_layers < 0: no transformer.
  Stage make_stage(const std::string& block, int index, int level, std::int64_t in,
                   std::int64_t transformer_layers, bool only_cross_attention);
  void add_down_blocks(std::vector<std::int64_t>& skip_channels);
  void add_middle();
  void add_up_blocks(std::vector<std::int64_t>& skip_channels);
  std::vector<ParamId> completion_order() const;
  /// Elements of the largest tensor between two stages of a batch.
  std::int64_t largest_between_stages(const Shape& sample) const;
  Tensor embed(Exec&, const Weights&, Tensor timesteps, Tensor pooled, DType, Saved*) const;
  Tensor embed_text(Exec&, const Weights&, Tensor tokens, Saved*) const;
  /// 2 x - 1
  Tensor center(Exec&, Tensor sample) const;
  void backward_embeddings(Exec&, const Weights&, Gradients&, const Saved&,
                           const ConditionGradients&) const;

  UNetConfig config_;
  ParameterTable table_;
  Conv2d conv_in_, conv_out_;
  GroupNorm norm_out_;
  VectorEmbedding time_embedding_, pooled_embedding_;
  std::optional<Linear> text_projection_;
  std::vector<DownBlock> down_;
  std::vector<Stage> middle_;  // two, one or none
  std::vector<UpBlock> up_;
  std::vector<ParamId> input_ids_, output_ids_, embedding_ids_;
};

/// FLOPs of one sample's forward pass.
double forward_flops(const UNetConfig&, std::int64_t height, std::int64_t width,
                     std::int64_t tokens);

}  // namespace strata
