#pragma once
// The choice of the next token from its logits.

#include <cstdint>
#include <span>

namespace strata {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy
  double top_p = 1;        // the fewest likeliest tokens whose probabilities reach this (nucleus)
  std::uint64_t seed = 0;
};

/// The id drawn for position `position` of text `row`, a pure function of the logits, the options
/// and these two. logits (V), of which softcap > 0 makes softcap * tanh(l / softcap) (Gemma 2).
/// Greedy takes the first of the largest. Nucleus sampling: Holtzman et al. 2020. Error(87) when a
/// logit is not finite.
std::int32_t next_token(std::span<const float> logits, float softcap, const SamplingOptions&,
                        std::uint64_t row, std::uint32_t position);

}  // namespace strata
