#pragma once
// The levels of the U-Net. A stage is a residual block and, on levels with attention, the spatial
// transformer behind it; a down block, the middle and an up block are rows of stages.

#include <optional>

#include "model/chain.hpp"
#include "model/resblock.hpp"
#include "model/transformer.hpp"

namespace strata {

/// What every block sees besides its input.
struct Conditions {
  Tensor time;  // (B,time_dim) embedding of timestep and pooled caption, after SiLU
  Ragged text;  // (T,cross_attention_dim)
};

/// The same conditions with their gradients, f32, summed over the blocks; dtext is absent when
/// nobody needs it.
struct ConditionGradients {
  Conditions conditions;
  Tensor dtime, dtext;
};

class Stage {
 public:
  struct Saved {
    bool recompute = false;  // nothing is kept: backward runs forward again (Chen et al., 2016)
    ResBlock::Saved resblock;
    SpatialTransformer::Saved transformer;
  };

  Stage(ResBlock resblock, std::optional<SpatialTransformer> transformer)
      : resblock_(std::move(resblock)), transformer_(std::move(transformer)) {}

  /// x (B,H,W,in) -> (B,H,W,out), in y where given.
  Tensor forward(Exec&, const Weights&, Tensor x, const Conditions&, Saved*, Tensor y = {}) const;
  /// x as in forward; dy, the chain's last tensor -> dx, which is the chain's next unless given.
  Tensor backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor x, Chain&,
                  const ConditionGradients&, Tensor dy, Tensor dx = {}) const;
  void count(Flops&, double pixels, double tokens) const;
  void append_completion_order(std::vector<ParamId>&) const;
  std::int64_t out() const { return resblock_.out(); }

 private:
  Tensor run(Exec&, const Weights&, Tensor x, const Conditions&, Saved*, Tensor y) const;

  ResBlock resblock_;
  std::optional<SpatialTransformer> transformer_;
};

/// A 3x3 convolution that leads to another level, with the ids it reports.
struct Resampler {
  Conv2d conv;
  std::vector<ParamId> ids;
};

class DownBlock {
 public:
  struct Saved {
    bool recompute = false;
    std::vector<Stage::Saved> stages;
    std::vector<Tensor> inputs;  // of the stages and of the downsampler
  };

  DownBlock(std::vector<Stage> stages, std::optional<Resampler> downsampler)
      : stages_(std::move(stages)), downsampler_(std::move(downsampler)) {}

  /// Pushes the result of each stage and of the downsampler on skips.
  Tensor forward(Exec&, const Weights&, Tensor x, const Conditions&, std::vector<Tensor>& skips,
                 Saved*) const;
  /// Pops the gradients of those skips; returns dx, the chain's last tensor.
  Tensor backward(Exec&, const Weights&, Gradients&, const Saved&, Chain&,
                  const ConditionGradients&, std::vector<Tensor>& dskips, Tensor dy) const;
  /// height and width become those of the result.
  void count(Flops&, std::int64_t& height, std::int64_t& width, double tokens) const;
  void append_completion_order(std::vector<ParamId>&) const;

 private:
  std::vector<Stage> stages_;
  std::optional<Resampler> downsampler_;
};

class UpBlock {
 public:
  struct Saved {
    bool recompute = false;
    std::vector<Stage::Saved> stages;
    std::vector<Tensor> inputs;  // of the stages before the skip is concatenated, of the upsampler
    std::vector<Tensor> skips;
    std::vector<Tensor> joined;  // input and skip; not kept where they are joined again
    Shape upsampled_shape;
    Tensor upsampled;  // likewise
  };

  UpBlock(std::vector<Stage> stages, std::optional<Resampler> upsampler)
      : stages_(std::move(stages)), upsampler_(std::move(upsampler)) {}

  /// Pops one skip a stage; upsamples to the size of the next skip.
  Tensor forward(Exec&, const Weights&, Tensor x, const Conditions&, std::vector<Tensor>& skips,
                 Saved*) const;
  /// Pushes the gradients of those skips; returns dx, the chain's last tensor.
  Tensor backward(Exec&, const Weights&, Gradients&, const Saved&, Chain&,
                  const ConditionGradients&, std::vector<Tensor>& dskips, Tensor dy) const;
  void count(Flops&, double pixels, double pixels_above, double tokens) const;
  void append_completion_order(std::vector<ParamId>&) const;

 private:
  Tensor join(Exec&, Tensor x, Tensor skip) const;

  std::vector<Stage> stages_;
  std::optional<Resampler> upsampler_;
};

}  // namespace strata
