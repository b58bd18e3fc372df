#pragma once

#include <vector>

#include "core/exec.hpp"
#include "text/text_encoder.hpp"

namespace strata {

/// Collects what the strategies want out of a stream of hidden states, batch by batch, so that no
/// pass keeps more than its sums.
class HiddenStates {
 public:
  /// Room for all tokens of all captions; a strategy that the model does not have is Error(64). The
  /// model outlives this object.
  HiddenStates(const TextModel& model, std::int64_t tokens, std::int64_t captions,
               const EncodeOptions& options);

  /// Tokens from `first_token` and captions from `first_caption` on come next: ids (T) and offsets
  /// (n+1) of the batch alone, kept by the caller. Sums live in the arena until the caller's scope
  /// ends.
  void begin_batch(Exec& exec, std::int64_t first_token, std::int64_t first_caption, Tensor ids,
                   Tensor offsets);
  /// Hidden state k (end - begin, width) of these tokens; k = 0..layers in order.
  void take(Exec& exec, std::int64_t k, Tensor state);
  void end_batch(Exec& exec);

  std::vector<Buffer> hidden;  // one a strategy: (T, D) f32
  Buffer pooled;               // (n, P) f32, zero rows for captions without tokens
  Buffer layers;               // (L+1, T, D) f32

 private:
  /// Rows [begin, end) of `to` (host, f32) from a state on the device.
  void store(Exec& exec, Tensor to, Tensor state) const;

  const TextModel& model_;
  std::vector<Strategy> strategies_;
  std::int64_t layer_count_, width_;
  std::int64_t begin_ = 0, end_ = 0, first_caption_ = 0;
  Tensor ids_{}, offsets_{};  // of the batch
  std::vector<Tensor> sums_;  // of the averages, f32 on the device; absent for the others
};

}  // namespace strata
