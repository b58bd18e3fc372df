#pragma once

#include <span>
#include <vector>

#include "core/exec.hpp"
#include "text/text_encoder.hpp"

namespace strata {

/// Collects what the strategies want out of a stream of hidden states, batch by batch, so that no
/// pass keeps more than its sums.
class HiddenStates {
 public:
  /// Room for all tokens of all captions; a strategy that the model does not have is Error(64).
  HiddenStates(std::int64_t layers, std::int64_t width, std::int64_t tokens, std::int64_t captions,
               const EncodeOptions& options);

  /// Tokens [begin, end) come next: captions from `first_caption` on, whose tokens begin and end at
  /// `offsets` within the batch (kept by the caller). Sums live in the arena until the caller's
  /// scope ends.
  void begin_batch(Exec& exec, std::int64_t begin, std::int64_t end, std::int64_t first_caption,
                   std::span<const std::int64_t> offsets);
  /// Hidden state k (end - begin, width) of these tokens; k = 0..layers in order.
  void take(Exec& exec, std::int64_t k, Tensor state);
  void end_batch(Exec& exec);

  std::vector<Buffer> hidden;  // one a strategy: (T, D) f32
  Buffer pooled;               // (n, D) f32, zero rows for captions without tokens
  Buffer layers;               // (L+1, T, D) f32

 private:
  /// Rows [begin, end) of `to` (host, f32) from a state on the device.
  void store(Exec& exec, Tensor to, Tensor state) const;

  std::vector<Strategy> strategies_;
  std::int64_t layer_count_, width_;
  std::int64_t begin_ = 0, end_ = 0, first_caption_ = 0;
  std::span<const std::int64_t> offsets_;
  std::vector<Tensor> sums_;  // of the averages, f32 on the device; absent for the others
};

}  // namespace strata
