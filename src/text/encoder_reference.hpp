#pragma once
// Hidden states of the same weights dumped elsewhere: a site's proof of parity with its own models.

#include <vector>

#include "model/text_model.hpp"

namespace strata {

struct EncoderReference {
  Buffer ids, offsets;  // (T), (n+1) i64
  Buffer layers;        // (L+1, T, D) f32

  /// Reads `input_ids`, `offsets` and `layers`; Error(65) when they do not fit one another.
  explicit EncoderReference(const std::string& path);
};

/// |ours - theirs| / |theirs| over all tokens, in the Euclidean norm.
struct LayerDifferences {
  std::vector<double> by_layer;  // L+1
  double largest = 0;
};
/// Error(65) when the reference is of a model of another size.
LayerDifferences compare_layers(Exec& exec, const TextModel& model,
                                const EncoderReference& reference, bool causal);

}  // namespace strata
