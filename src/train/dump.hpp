#pragma once
// `--dump-steps`: everything that went into a step, so that anyone can replay it in another
// framework.

#include <map>
#include <string>
#include <vector>

#include "diffusion/loss.hpp"
#include "train/conditioning.hpp"

namespace strata {

/// What a microbatch was trained on; tensors where they lie.
struct DumpedMicrobatch {
  const Batch& batch;
  const Captions& captions;
  Tensor latents;  // what the noise was added to
  const NoisedBatch& noised;
  Tensor tokens, pooled, loss;
};

/// One rank's part of one step, its microbatches laid end to end (b samples of this rank):
///   latents, noise, noisy (b,C,h,w) f32; timesteps, sample, epoch, dropped (b) i64; loss (b) f32,
///   the unweighted mean squared error; text (T,D) f32 as fed (dropped captions left out), offsets
///   (b+1) i64; pooled (b,P) f32 where the model takes one.
class StepDump {
 public:
  void add(const DumpedMicrobatch& microbatch);
  /// metadata: strings beside the tensors (step, learning rate, precision, ...). Error(73) or (74).
  void write(const std::string& path, const std::map<std::string, std::string>& metadata) const;

 private:
  struct Floats {
    Shape shape;  // of the whole, once known
    std::vector<float> values;
  };
  void append(Floats& to, Tensor from);

  Floats latents_, noise_, noisy_, text_, pooled_, loss_;
  std::vector<std::int64_t> timesteps_, sample_, epoch_, dropped_, offsets_{0};
};

}  // namespace strata
