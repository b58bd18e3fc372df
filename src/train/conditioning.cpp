#include "train/conditioning.hpp"

#include "core/transfer.hpp"
#include "diffusion/loss.hpp"
#include "kernels/ops.hpp"

namespace strata {

Captions choose_captions(const Batch& batch, PhiloxKey key, double drop_probability) {
  const auto* from = batch.offsets.as<std::int64_t>();
  Captions captions{{0}, {}};
  for (std::size_t b = 0; b < batch.samples.size(); ++b) {
    const bool drop = draw_caption_drop(key, batch.samples[b], batch.epochs[b], drop_probability);
    captions.dropped.push_back(drop);
    captions.offsets.push_back(captions.tokens() + (drop ? 0 : from[b + 1] - from[b]));
  }
  return captions;
}

Conditioning make_conditioning(Exec& exec, const Batch& batch, DType dtype, bool pooled) {
  const auto as = [&](Tensor from) {
    const Tensor to = exec.empty(dtype, from.shape);
    const ArenaScope scope(exec.arena);
    if (from.numel() > 0) ops::cast(exec, to, on_device(exec, from));
    return to;
  };
  return {.text = {.tokens = as(batch.tokens), .offsets = batch.offsets},
          .pooled = pooled ? as(batch.pooled) : Tensor{}};
}

}  // namespace strata
