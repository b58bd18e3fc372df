#pragma once
// Whole work of a U-Net with random weights on a random batch: what is measured where speed is
// asked for and caches need not be.

#include "core/replay.hpp"
#include "data/cache_set.hpp"
#include "dist/zero2.hpp"
#include "train/microbatch.hpp"

namespace strata {

struct WorkShape {
  std::int64_t samples = 1, side = 32;  // of a rank; latents of side x side
  std::int64_t tokens = 77;             // of each caption
  DType dtype = DType::bf16;
  bool recompute = false;  // training only
};

/// A batch of normals, every caption of the same length.
Batch random_batch(const UNetConfig& unet, const WorkShape& shape);
/// Extents of such a batch.
MicrobatchShape microbatch_shape(const UNetConfig& unet, const WorkShape& shape);

/// (N) f32 on the host. Drawing a large network's takes longer than a step of it.
Buffer random_weights(const UNet& unet);

/// Training steps: input, noise, passes, norm, AdamW. Collective over the ranks of `communicator`.
class RandomTraining {
 public:
  /// weights (N) f32, which are copied. replays: ops are recorded and played, on a device that can.
  RandomTraining(Exec& exec, Communicator& communicator, const UNet& unet, Tensor weights,
                 const WorkShape& shape, const Zero2Options& options, bool replays);
  /// One step. On a device it may return before the step is done.
  void step();
  /// Of this rank's samples in the last step.
  double mean_loss() const;
  Zero2& zero() { return zero_; }

 private:
  void passes();

  Exec& exec_;
  const UNet& unet_;
  const MicrobatchShape shape_;
  const PassOptions how_;
  Zero2 zero_;
  Microbatch input_;
  const Batch batch_;
  const Captions captions_;
  const NoisePlan noise_;
  Buffer losses_;  // (B) f32
  Replays replays_;
  std::int64_t steps_ = 0;
};

/// Evaluations of the network without gradients, as a sampler calls it.
class RandomEvaluation {
 public:
  /// weights (N) f32 on the host, which are copied. The first `without_text` samples have no
  /// caption.
  RandomEvaluation(Exec& exec, const UNet& unet, Tensor weights, const WorkShape& shape,
                   std::int64_t without_text);
  /// One evaluation of all samples; as RandomTraining::step.
  void evaluate();
  Tensor parameters() const { return flat_; }

 private:
  Exec& exec_;
  const UNet& unet_;
  const Buffer flat_;
  const Weights weights_;
  Buffer sample_, timesteps_, tokens_, pooled_;
  std::vector<std::int64_t> offsets_;
  Replays replays_;
};

}  // namespace strata
