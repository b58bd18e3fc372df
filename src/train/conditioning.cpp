#include "train/conditioning.hpp"

#include "core/transfer.hpp"
#include "diffusion/loss.hpp"
#include "kernels/ops.hpp"

namespace strata {

namespace {

void convert(Exec& exec, Tensor to, Tensor from) {
  if (to.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  if (to.dtype == from.dtype)
    memory::copy(to.data, to.device, from.data, from.device, to.bytes());
  else
    ops::cast(exec, to, on_device(exec, from));
}

}  // namespace

Conditioning make_conditioning(Exec& exec, const Batch& batch, DType dtype, PhiloxKey key,
                               double drop_probability, bool pooled) {
  const auto size = static_cast<std::int64_t>(batch.samples.size());
  const auto* from = batch.offsets.as<std::int64_t>();
  Conditioning out;
  out.offsets = Buffer(DType::i64, {size + 1});
  out.text.offsets = out.offsets;
  auto* to = out.text.offsets.as<std::int64_t>();
  to[0] = 0;
  for (std::int64_t b = 0; b < size; ++b) {
    const bool drop = draw_caption_drop(key, batch.samples[b], batch.epochs[b], drop_probability);
    out.dropped.push_back(drop);
    to[b + 1] = to[b] + (drop ? 0 : from[b + 1] - from[b]);
  }
  const Tensor tokens = batch.tokens;
  out.text.tokens = exec.empty(dtype, {to[size], tokens.shape[1]});
  if (pooled) out.pooled = exec.empty(dtype, batch.pooled.tensor().shape);
  for (std::int64_t b = 0; b < size; ++b) {
    if (!out.dropped[b])
      convert(exec, out.text.tokens.rows(to[b], to[b + 1]), tokens.rows(from[b], from[b + 1]));
    if (!pooled) continue;
    if (out.dropped[b])
      ops::fill(exec, out.pooled.rows(b, b + 1), 0);
    else
      convert(exec, out.pooled.rows(b, b + 1), batch.pooled.tensor().rows(b, b + 1));
  }
  return out;
}

}  // namespace strata
