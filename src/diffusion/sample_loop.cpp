#include "diffusion/sample_loop.hpp"

#include <algorithm>
#include <vector>

#include "core/replay.hpp"
#include "kernels/ops.hpp"

namespace strata {

namespace {

// B rows without keys before the B rows with theirs.
std::vector<std::int64_t> guided_offsets(const Tensor& offsets) {
  const std::int64_t batch = offsets.numel() - 1;
  const auto* begin = offsets.as<std::int64_t>();
  std::vector<std::int64_t> both(static_cast<std::size_t>(batch), begin[0]);
  both.insert(both.end(), begin, begin + batch + 1);
  return both;
}

Tensor guided_pooled(Exec& exec, const Tensor& pooled) {
  const std::int64_t batch = pooled.shape[0];
  const Tensor both = exec.empty(pooled.dtype, {2 * batch, pooled.shape[1]});
  ops::fill(exec, both.rows(0, batch), 0.0f);
  const Tensor conditional = both.rows(batch, 2 * batch);
  memory::copy(conditional.data, conditional.device, pooled.data, pooled.device, pooled.bytes());
  return both;
}

}  // namespace

void sample_latents(Exec& exec, const UNet& unet, const Weights& weights, const TextBatch& text,
                    Tensor pooled, Tensor latents, Sampler& sampler, Guidance guidance) {
  STRATA_CHECK(latents.shape.rank() == 4 && latents.device == host_device &&
               text.offsets.numel() == latents.shape[0] + 1);
  const bool guided = guidance.is_on();
  const std::int64_t batch = latents.shape[0];
  Shape model_shape = latents.shape;
  model_shape[0] = guided ? 2 * batch : batch;
  const auto n = static_cast<std::size_t>(latents.numel());
  const std::span<float> x(latents.as<float>(), n);

  ArenaScope scope(exec.arena);
  TextBatch keys = text;
  std::vector<std::int64_t> offsets;
  if (guided) {
    offsets = guided_offsets(text.offsets);
    keys.offsets = view_of(offsets.data(), {model_shape[0] + 1});
    if (pooled) pooled = guided_pooled(exec, pooled);
  }
  std::vector<float> seen(guided ? 2 * n : n), output(seen.size());
  for (float& value : x) value *= sampler.initial_sigma();

  const Tensor wide = exec.empty(DType::f32, model_shape);
  const Tensor timesteps = exec.empty(DType::f32, {model_shape[0]});
  // Every step evaluates the network on the same tensors.
  Replays replays(exec, !(exec.device() == host_device));
  const auto evaluate = [&] {
    const ArenaScope step_scope(exec.arena);
    const Tensor input = exec.empty(weights.dtype(), model_shape);
    ops::cast(exec, input, wide);
    ops::cast(exec, wide, unet.forward(exec, weights, input, timesteps, keys, pooled, nullptr));
  };
  for (int step = 0; step < sampler.steps(); ++step) {
    sampler.scale_input(step, std::span(seen).first(n), x);
    if (guided) std::copy_n(seen.begin(), n, seen.begin() + static_cast<std::ptrdiff_t>(n));
    memory::copy(wide.data, wide.device, seen.data(), host_device, wide.bytes());
    ops::fill(exec, timesteps, sampler.timesteps()[step]);
    replays.run(0, evaluate);
    memory::copy(output.data(), host_device, wide.data, wide.device, wide.bytes());
    const std::span<float> unconditional = std::span(output).first(n);
    if (guided)
      guide(unconditional, unconditional, std::span(output).subspan(n), guidance,
            static_cast<int>(batch));
    sampler.step(step, x, unconditional);
  }
}

}  // namespace strata
