#include "train/latents.hpp"

#include <vector>

#include "core/transfer.hpp"
#include "kernels/ops.hpp"

namespace strata {

Tensor draw_latents(Exec& exec, PhiloxKey key, const Batch& batch,
                    std::span<const std::uint32_t> epochs) {
  const Tensor cached = on_device(exec, batch.latents);
  if (!batch.moments) return cached;
  STRATA_CHECK(epochs.size() == batch.samples.size());
  std::vector<PhiloxCounter> at;
  for (std::size_t b = 0; b < batch.samples.size(); ++b)
    at.push_back({static_cast<std::uint64_t>(batch.samples[b]), epochs[b], Purpose::posterior});
  Shape one = cached.shape;
  one[1] /= 2;
  const Tensor latents = exec.empty(DType::f32, one);
  ops::normals(exec, latents, key, at.data());
  ops::draw_posterior(exec, latents, cached, latents);
  return latents;
}

}  // namespace strata
