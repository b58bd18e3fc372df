#pragma once

#include <vector>

#include "core/rng.hpp"
#include "data/cache_set.hpp"
#include "model/unet.hpp"

namespace strata {

/// Which captions a microbatch is trained with. Drops are by (seed, sample, epoch): embedding, mask
/// and pooled vector become nothing, exactly what classifier-free guidance asks the network without
/// a prompt.
struct Captions {
  std::vector<std::int64_t> offsets;  // (B+1) of the captions that are left; a dropped one is empty
  std::vector<std::int64_t> dropped;  // (B) 1 = trained without its caption
  std::int64_t tokens() const { return offsets.back(); }
};
Captions choose_captions(const Batch& batch, PhiloxKey key, double drop_probability);

/// All captions of a batch and their pooled vectors (where the model takes them), in exec's arena.
struct Conditioning {
  TextBatch text;  // its offsets are the batch's
  Tensor pooled;   // (B,P) T, or absent
};
Conditioning make_conditioning(Exec& exec, const Batch& batch, DType dtype, bool pooled);

}  // namespace strata
