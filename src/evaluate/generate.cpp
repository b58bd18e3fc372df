#include "evaluate/generate.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "diffusion/sample_loop.hpp"
#include "kernels/ops.hpp"
#include "model/vae_tiles.hpp"

namespace strata {

namespace {

// (B,h,w,C) f32 on the host. Drawn channel by channel, rows and columns within, so that a framework
// with (C,h,w) latents can replay it.
Buffer initial_noise(Exec& exec, std::span<const ImageRequest> requests, std::int64_t channels,
                     int height, int width) {
  const auto batch = static_cast<std::int64_t>(requests.size());
  Buffer noise(DType::f32, {batch, height, width, channels});
  ArenaScope scope(exec.arena);
  const Tensor drawn = exec.empty(DType::f32, {batch, channels, height, width});
  for (std::int64_t b = 0; b < batch; ++b) {
    const PhiloxCounter at{0, static_cast<std::uint32_t>(requests[b].variation),
                           Purpose::image_noise};
    ops::normals(exec, drawn.rows(b, b + 1), {requests[b].seed}, &at);
  }
  const Tensor turned = exec.empty(DType::f32, noise.tensor().shape);
  ops::nchw_to_nhwc(exec, turned, drawn);
  memory::copy(noise.tensor().data, host_device, turned.data, turned.device, turned.bytes());
  return noise;
}

// `from` (n,C) f32 host -> (n,C) `dtype` on exec's device.
Tensor to_device(Exec& exec, Tensor from, DType dtype) {
  const Tensor wide = exec.empty(DType::f32, from.shape);
  memory::copy(wide.data, wide.device, from.data, host_device, from.bytes());
  if (dtype == DType::f32) return wide;
  const Tensor narrow = exec.empty(dtype, from.shape);
  ops::cast(exec, narrow, wide);
  return narrow;
}

struct TextOfBatch {
  std::vector<std::int64_t> offsets;
  TextBatch text;
  Tensor pooled;
};

TextOfBatch gather_text(Exec& exec, const EncodedPrompts& prompts,
                        std::span<const ImageRequest> requests, DType dtype) {
  const auto* begin = prompts.offsets.as<std::int64_t>();
  const Tensor& all = prompts.tokens.tensor();
  TextOfBatch batch;
  batch.offsets = {0};
  for (const auto& request : requests) {
    STRATA_CHECK(request.prompt >= 0 && request.prompt < prompts.count());
    batch.offsets.push_back(batch.offsets.back() + begin[request.prompt + 1] -
                            begin[request.prompt]);
  }
  const auto append = [](float*& to, const Tensor& rows) {
    std::memcpy(to, rows.data, rows.bytes());
    to += rows.numel();
  };
  const Buffer tokens(DType::f32, {batch.offsets.back(), all.shape[1]});
  float* to = tokens.as<float>();
  for (const auto& request : requests)
    append(to, all.rows(begin[request.prompt], begin[request.prompt + 1]));
  batch.text.tokens = to_device(exec, tokens, dtype);
  batch.text.offsets =
      view_of(batch.offsets.data(), {static_cast<std::int64_t>(batch.offsets.size())});
  if (const Tensor& pooled = prompts.pooled.tensor()) {
    const Buffer rows(DType::f32, {static_cast<std::int64_t>(requests.size()), pooled.shape[1]});
    to = rows.as<float>();
    for (const auto& request : requests)
      append(to, pooled.rows(request.prompt, request.prompt + 1));
    batch.pooled = to_device(exec, rows, dtype);
  }
  return batch;
}

// (1,h,w,C) -> (1,C,h,w), f32 host.
Buffer channels_first(Exec& exec, Tensor picture) {
  const Shape& from = picture.shape;
  ArenaScope scope(exec.arena);
  const Tensor turned = exec.empty(DType::f32, {1, from[3], from[1], from[2]});
  ops::nhwc_to_nchw(exec, turned, to_device(exec, picture, DType::f32));
  Buffer out(DType::f32, turned.shape);
  memory::copy(out.tensor().data, host_device, turned.data, turned.device, turned.bytes());
  return out;
}

void dump_pictures(Exec& exec, const EncodedPrompts& prompts,
                   std::span<const ImageRequest> requests, Tensor noise, Tensor latents,
                   const GenerateOptions& options) {
  const auto* offsets = prompts.offsets.as<std::int64_t>();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto b = static_cast<std::int64_t>(i), prompt = requests[i].prompt;
    const Buffer first = channels_first(exec, noise.rows(b, b + 1));
    const Buffer last = channels_first(exec, latents.rows(b, b + 1));
    PictureDump dump;
    const Shape chw{first.tensor().shape[1], first.tensor().shape[2], first.tensor().shape[3]};
    dump.noise = first.tensor().reshape(chw);
    dump.latents = last.tensor().reshape(chw);
    dump.tokens = prompts.tokens.tensor().rows(offsets[prompt], offsets[prompt + 1]);
    if (const Tensor& pooled = prompts.pooled.tensor())
      dump.pooled = pooled.rows(prompt, prompt + 1).reshape({pooled.shape[1]});
    options.dump(requests[i], dump);
  }
}

std::vector<Image> decode(Exec& exec, const Vae& vae, Tensor latents, int tile) {
  ArenaScope scope(exec.arena);
  const Buffer pixels = decode_in_tiles(exec, vae, to_device(exec, latents, DType::f32), tile);
  const Tensor decoded = pixels;
  std::vector<Image> images;
  const std::int64_t row = decoded.numel() / decoded.shape[0];
  for (std::int64_t b = 0; b < decoded.shape[0]; ++b) {
    const float* from = pixels.as<float>() + b * row;
    Image image{static_cast<int>(decoded.shape[2]), static_cast<int>(decoded.shape[1]), {}};
    image.rgb.reserve(static_cast<std::size_t>(row));
    for (std::int64_t i = 0; i < row; ++i)
      image.rgb.push_back(static_cast<std::uint8_t>(
          std::nearbyint(std::clamp(from[i] / 2 + 0.5f, 0.0f, 1.0f) * 255)));
    images.push_back(std::move(image));
  }
  return images;
}

}  // namespace

std::vector<Image> generate_images(Exec& exec, const UNet& unet, const Weights& weights,
                                   const SamplerConfig& config, const Vae& vae,
                                   const EncodedPrompts& prompts,
                                   std::span<const ImageRequest> requests,
                                   const GenerateOptions& options) {
  const UNetConfig& model = unet.config();
  STRATA_CHECK(options.batch > 0);
  const auto height =
      static_cast<int>(options.latent_height ? options.latent_height : model.sample_height);
  const auto width =
      static_cast<int>(options.latent_width ? options.latent_width : model.sample_width);
  std::vector<Image> images;
  for (std::size_t begin = 0; begin < requests.size();) {
    const std::size_t count = std::min<std::size_t>(options.batch, requests.size() - begin);
    std::vector<ImageRequest> batch(requests.begin() + static_cast<std::ptrdiff_t>(begin),
                                    requests.begin() + static_cast<std::ptrdiff_t>(begin + count));
    batch.resize(static_cast<std::size_t>(options.batch), batch.back());
    ArenaScope scope(exec.arena);
    const auto sampler = make_sampler(options.sampler, config, options.steps);
    const auto text = gather_text(exec, prompts, batch, weights.dtype());
    const Buffer noise = initial_noise(exec, batch, model.in_channels, height, width);
    Buffer latents(DType::f32, noise.tensor().shape);
    std::memcpy(latents.as<float>(), noise.as<float>(), noise.tensor().bytes());
    sample_latents(exec, unet, weights, text.text, text.pooled, latents, *sampler,
                   options.guidance);
    for (std::int64_t i = 0; i < latents.tensor().numel(); ++i)
      latents.as<float>()[i] = vae.scaling().to_vae(latents.as<float>()[i]);
    if (options.dump)
      dump_pictures(exec, prompts, std::span(batch).first(count), noise, latents, options);
    auto decoded = decode(exec, vae, latents, options.tile);
    std::move(decoded.begin(), decoded.begin() + static_cast<std::ptrdiff_t>(count),
              std::back_inserter(images));
    begin += count;
  }
  return images;
}

}  // namespace strata
