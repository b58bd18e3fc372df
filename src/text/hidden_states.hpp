#pragma once

#include <vector>

#include "core/exec.hpp"
#include "text/text_encoder.hpp"

namespace strata {

/// Collects what the strategies want out of a stream of hidden states, so that no pass keeps more
/// than its sums.
class HiddenStates {
 public:
  /// Room on `where` for all tokens of all captions; a strategy that the model does not have is
  /// Error(64). Where that is exec's device, states are taken by ops alone; pooled states are for
  /// the host. The model outlives this object.
  HiddenStates(const TextModel& model, std::int64_t tokens, std::int64_t captions,
               const EncodeOptions& options, Device where = host_device);

  /// The batches of the next pass; those of the pass before are forgotten.
  void begin_pass() { batches_.clear(); }
  /// One more batch of the pass: tokens from `first_token` and captions from `first_caption` on.
  /// The caller keeps its ids and offsets. Where the room is elsewhere than exec's device, its sums
  /// live in the arena until the caller's scope ends.
  void add_batch(Exec& exec, std::int64_t first_token, std::int64_t first_caption,
                 const TokenBatch& texts);
  /// Hidden state k (tokens, width) of a batch; k = 0..layers in order.
  void take(Exec& exec, std::size_t batch, std::int64_t k, Tensor state);

  std::vector<Buffer> hidden;  // one a strategy: (T, D) f32
  Buffer pooled;               // (n, P) f32, zero rows for captions without tokens
  Buffer layers;               // (L+1, T, D) f32

 private:
  struct Batch {
    std::int64_t begin, end, first_caption;  // tokens [begin, end)
    TokenBatch texts;
    std::vector<Tensor> sums;  // of the averages, f32 on the device; absent for the others
  };

  /// A state on the device into `to` (f32), there or on the host.
  void store(Exec& exec, Tensor to, Tensor state) const;
  void finish_sums(Exec& exec, const Batch& batch) const;

  const TextModel& model_;
  std::vector<Strategy> strategies_;
  std::int64_t layer_count_, width_;
  std::vector<Batch> batches_;
};

}  // namespace strata
