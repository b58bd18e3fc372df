#include "train/latents.hpp"

#include "core/transfer.hpp"
#include "diffusion/loss.hpp"
#include "kernels/ops.hpp"

namespace strata {

std::vector<PhiloxCounter> posterior_counters(std::span<const std::int64_t> samples,
                                              std::span<const std::uint32_t> epochs) {
  STRATA_CHECK(epochs.size() == samples.size());
  std::vector<PhiloxCounter> at;
  for (std::size_t b = 0; b < samples.size(); ++b)
    at.push_back({static_cast<std::uint64_t>(samples[b]), epochs[b], Purpose::posterior});
  return at;
}

Tensor draw_latents(Exec& exec, PhiloxKey key, Tensor cached, bool moments, Tensor at) {
  if (!moments) return cached;
  Shape one = cached.shape;
  one[1] /= 2;
  const Tensor latents = exec.empty(DType::f32, one);
  ops::normals(exec, latents, key, at);
  ops::draw_posterior(exec, latents, cached, latents);
  return latents;
}

Tensor draw_latents(Exec& exec, PhiloxKey key, const Batch& batch,
                    std::span<const std::uint32_t> epochs) {
  const auto at = posterior_counters(batch.samples, epochs);
  return draw_latents(exec, key, on_device(exec, batch.latents), batch.moments, counters(at));
}

}  // namespace strata
