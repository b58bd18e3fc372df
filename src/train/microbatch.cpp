#include "train/microbatch.hpp"

#include <algorithm>
#include <cstring>

#include "core/spans.hpp"
#include "kernels/ops.hpp"
#include "train/latents.hpp"

namespace strata {

namespace {
std::int64_t longest_caption(const CacheSet& caches) {
  return std::max<std::int64_t>(1, caches.text_manifest().max_tokens);
}
}  // namespace

RowBuckets text_buckets(const CacheSet& caches, std::int64_t samples, int count) {
  if (count == 0) return {};
  return {samples * longest_caption(caches), count};
}

MicrobatchShape microbatch_shape(const CacheSet& caches, std::int64_t samples, bool pooled,
                                 DType dtype, const RowBuckets& buckets) {
  Shape latent = caches.latent_shape();
  const bool moments = caches.latents_manifest().latent_kind == "moments";
  if (moments) latent[0] *= 2;
  return {.samples = samples,
          .latent = latent,
          .moments = moments,
          .text_dim = caches.text_dim(),
          .pooled_dim = pooled ? caches.pooled_dim() : 0,
          .longest = longest_caption(caches),
          .most_rows = std::max(samples * longest_caption(caches), buckets.most_rows()),
          .dtype = dtype};
}

MicrobatchLayout::MicrobatchLayout(const MicrobatchShape& shape) : bytes(0) {
  constexpr std::size_t alignment = 256;
  const auto place = [&](std::int64_t elements, DType dtype) {
    const std::size_t at = bytes;
    bytes += (static_cast<std::size_t>(elements) * size_of(dtype) + alignment - 1) / alignment *
             alignment;
    return at;
  };
  const std::int64_t b = shape.samples;
  noise_at = place(2 * b, DType::i64);
  posterior_at = place(2 * b, DType::i64);
  offsets = place(b + 1, DType::i64);
  for (std::size_t* coefficient :
       {&timesteps, &signal, &noise, &target_signal, &target_noise, &weight})
    *coefficient = place(b, DType::f32);
  pooled = place(b * shape.pooled_dim, shape.dtype);
  latents = place(b * shape.latent.numel(), DType::f32);
  tokens = place(shape.most_rows * shape.text_dim, shape.dtype);  // last: it is seldom full
}

Microbatch::Microbatch(Exec& exec, const MicrobatchShape& shape)
    : device_(exec.device()), shape_(shape), layout_(shape), feed_(exec, layout_.bytes) {}

Tensor Microbatch::part(std::size_t at, DType dtype, Shape shape) const {
  return {feed_.memory() + at, dtype, device_, shape};
}

namespace {

template <class T>
void store(std::byte* to, const std::vector<T>& from) {
  std::memcpy(to, from.data(), from.size() * sizeof(T));
}

/// The first `count` values of `from`, f32 or bf16, as `dtype`, and zeros up to `end` elements.
void store_as(DType dtype, std::byte* to, Tensor from, std::int64_t count, std::int64_t end) {
  const std::size_t size = size_of(dtype);
  if (from.dtype == dtype) {
    std::memcpy(to, from.data, static_cast<std::size_t>(count) * size);
  } else if (dtype == DType::bf16) {
    auto* narrow = reinterpret_cast<bf16*>(to);
    for (std::int64_t i = 0; i < count; ++i) narrow[i] = to_bf16(from.as<float>()[i]);
  } else {
    auto* wide = reinterpret_cast<float*>(to);
    for (std::int64_t i = 0; i < count; ++i) wide[i] = to_float(from.as<bf16>()[i]);
  }
  std::memset(to + static_cast<std::size_t>(count) * size, 0,
              static_cast<std::size_t>(end - count) * size);
}

}  // namespace

void Microbatch::set(const Batch& batch, const Captions& captions, const NoisePlan& noise,
                     std::int64_t rows) {
  const std::int64_t b = shape_.samples, width = shape_.text_dim;
  STRATA_CHECK(std::ssize(batch.samples) == b && batch.moments == shape_.moments &&
               batch.latents.tensor().numel() == b * shape_.latent.numel());
  std::byte* to = feed_.begin();
  store(to + layout_.noise_at, noise.at);
  store(to + layout_.posterior_at, posterior_counters(batch.samples, batch.epochs));
  store(to + layout_.offsets, captions.offsets);
  store(to + layout_.timesteps, noise.timesteps);
  store(to + layout_.signal, noise.signal);
  store(to + layout_.noise, noise.noise);
  store(to + layout_.target_signal, noise.target_signal);
  store(to + layout_.target_noise, noise.target_noise);
  store(to + layout_.weight, noise.weight);
  std::memcpy(to + layout_.latents, batch.latents.tensor().data, batch.latents.tensor().bytes());

  const auto* from = batch.offsets.as<std::int64_t>();
  const std::size_t size = size_of(shape_.dtype);
  for (std::int64_t i = 0; i < b; ++i) {
    const std::int64_t begin = captions.offsets[i], end = captions.offsets[i + 1];
    if (end - begin > shape_.longest)
      fail(Exit::data, "sample {}: a caption of {} tokens, and the cache's max_tokens is {}",
           batch.samples[i], end - begin, shape_.longest);
    store_as(shape_.dtype, to + layout_.tokens + static_cast<std::size_t>(begin * width) * size,
             batch.tokens.tensor().rows(from[i], from[i + 1]), (end - begin) * width,
             ((i + 1 == b ? rows : end) - begin) * width);
    if (shape_.pooled_dim == 0) continue;
    const std::int64_t count = captions.dropped[i] ? 0 : shape_.pooled_dim;
    store_as(shape_.dtype,
             to + layout_.pooled + static_cast<std::size_t>(i * shape_.pooled_dim) * size,
             batch.pooled.tensor().rows(i, i + 1), count, shape_.pooled_dim);
  }
  feed_.send(layout_.tokens + static_cast<std::size_t>(rows * width) * size);
}

PassInput Microbatch::at(std::int64_t rows) const {
  const Shape& one = shape_.latent;
  const std::int64_t b = shape_.samples;
  const auto values = [&](std::size_t at) { return part(at, DType::f32, {b}); };
  PassInput input;
  input.latents = part(layout_.latents, DType::f32, {b, one[0], one[1], one[2]});
  input.moments = shape_.moments;
  input.posterior_at = part(layout_.posterior_at, DType::i64, {b, 2});
  input.noise = {.at = part(layout_.noise_at, DType::i64, {b, 2}),
                 .timesteps = values(layout_.timesteps),
                 .signal = values(layout_.signal),
                 .noise = values(layout_.noise),
                 .target_signal = values(layout_.target_signal),
                 .target_noise = values(layout_.target_noise),
                 .weight = values(layout_.weight)};
  input.text = {.tokens = part(layout_.tokens, shape_.dtype, {rows, shape_.text_dim}),
                .offsets = part(layout_.offsets, DType::i64, {b + 1}),
                .longest = shape_.longest};
  if (shape_.pooled_dim > 0)
    input.pooled = part(layout_.pooled, shape_.dtype, {b, shape_.pooled_dim});
  return input;
}

PassResult run_passes(Exec& exec, const UNet& unet, const Weights& weights, Gradients& gradients,
                      const PassInput& input, const PassOptions& options, Tensor losses) {
  const DType dtype = weights.dtype();
  PassResult result;
  result.latents =
      draw_latents(exec, options.key, input.latents, input.moments, input.posterior_at);
  result.noised =
      add_noise_to(exec, options.prediction, options.key, input.noise, result.latents, dtype);
  const NoisedBatch& noised = result.noised;

  UNet::Saved saved{.recompute = options.recompute};
  Tensor prediction;
  {
    const spans::Span span("forward", "pass");
    prediction = unet.forward(exec, weights, noised.sample, noised.timesteps, input.text,
                              input.pooled, &saved);
  }

  const Tensor dprediction = exec.empty(dtype, prediction.shape);
  ops::mse_loss(exec, losses, dprediction, prediction, noised.target, noised.weight,
                options.grad_scale);

  const spans::Span span("backward", "pass");
  unet.backward(exec, weights, gradients, saved, dprediction);
  return result;
}

}  // namespace strata
