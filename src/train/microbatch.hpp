#pragma once
// What tells one microbatch from another, in memory that stays where it is: the ops of a step read
// nothing else of the host, so they can be recorded once and played for every microbatch.

#include "core/feed.hpp"
#include "core/row_buckets.hpp"
#include "data/cache_set.hpp"
#include "diffusion/loss.hpp"
#include "model/unet.hpp"
#include "train/conditioning.hpp"

namespace strata {

/// Extents of a microbatch.
struct MicrobatchShape {
  std::int64_t samples = 1;
  Shape latent;          // (C,h,w) as cached: of moments 2 C
  bool moments = false;  // the latents are still to be drawn
  std::int64_t text_dim = 0, pooled_dim = 0;
  std::int64_t longest = 0;    // tokens of any caption
  std::int64_t most_rows = 0;  // of text, padding included
  DType dtype = DType::f32;    // of text and pooled vectors
};
MicrobatchShape microbatch_shape(const CacheSet& caches, std::int64_t samples, bool pooled,
                                 DType dtype, const RowBuckets& buckets);
/// The buckets of microbatches of so many samples; count 0: none.
RowBuckets text_buckets(const CacheSet& caches, std::int64_t samples, int count);

/// Where the parts of a microbatch lie in its memory: bytes from the beginning.
struct MicrobatchLayout {
  explicit MicrobatchLayout(const MicrobatchShape& shape);
  std::size_t noise_at, posterior_at, offsets, timesteps, signal, noise, target_signal,
      target_noise, weight, pooled, latents, tokens;
  std::size_t bytes;
};

/// What the passes of a microbatch read.
struct PassInput {
  Tensor latents;  // (B,C,h,w) f32 as cached
  bool moments = false;
  Tensor posterior_at;  // (B,2) i64
  NoiseInput noise;
  TextBatch text;
  Tensor pooled;  // (B,P) T or absent
};
struct PassOptions {
  Prediction prediction = Prediction::epsilon;
  PhiloxKey key{0};
  float grad_scale = 1;  // of each sample's loss
  bool recompute = false;
};
/// What was trained on, in exec's arena.
struct PassResult {
  Tensor latents;
  NoisedBatch noised;
};
/// Noise, forward, losses (B) f32, backward.
PassResult run_passes(Exec&, const UNet&, const Weights&, Gradients&, const PassInput&,
                      const PassOptions&, Tensor losses);

class Microbatch {
 public:
  Microbatch(Exec& exec, const MicrobatchShape& shape);

  /// Text padded to so many rows. Error(65) for a caption longer than the cache says any is.
  void set(const Batch& batch, const Captions& captions, const NoisePlan& noise, std::int64_t rows);

  /// Where ops find it, with so many rows of text.
  PassInput at(std::int64_t rows) const;

 private:
  Tensor part(std::size_t at, DType dtype, Shape shape) const;

  Device device_;
  const MicrobatchShape shape_;
  const MicrobatchLayout layout_;
  Feed feed_;
};

}  // namespace strata
