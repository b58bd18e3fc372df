#pragma once

#include <vector>

#include "core/rng.hpp"
#include "data/cache_set.hpp"
#include "model/unet.hpp"

namespace strata {

/// What a microbatch is conditioned on, in exec's arena.
struct Conditioning {
  Buffer offsets;                     // of the text, on the host
  TextBatch text;                     // a dropped caption owns an empty range
  Tensor pooled;                      // (B,P) T, a dropped caption's row is zero; or absent
  std::vector<std::int64_t> dropped;  // (B) 1 = trained without its caption
};

/// Drops captions with this probability, by (seed, sample, epoch): embedding, mask and pooled
/// vector become nothing, exactly what classifier-free guidance asks the network without a prompt.
Conditioning make_conditioning(Exec& exec, const Batch& batch, DType dtype, PhiloxKey key,
                               double drop_probability, bool pooled);

}  // namespace strata
