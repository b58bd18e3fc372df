#include "commands/preview.hpp"

#include <algorithm>
#include <memory>

#include "core/file.hpp"
#include "data/cache_format.hpp"
#include "evaluate/encode_prompts.hpp"
#include "evaluate/png.hpp"
#include "evaluate/prompts.hpp"
#include "train/setup.hpp"

namespace strata::commands {

namespace {

/// What stays from one preview to the next.
struct PreviewModels {
  PromptSet prompts;
  EncodedPrompts encoded;
  Vae vae;
  SamplerConfig sampler;
  GenerateOptions options;
};

/// As the run's text cache was made.
EncodedPrompts encode(const TrainConfig& config, const PromptSet& prompts) {
  const auto manifest = CacheManifest::load(config.data.text);
  const TextSettings settings{manifest.strategy,
                              manifest.attention.empty() ? "auto" : manifest.attention,
                              manifest.max_tokens, config.data.pooled};
  UNetConfig widths;
  widths.encoder_hid_dim = manifest.dim;
  widths.pooled_dim = config.data.pooled ? manifest.dim : 0;
  Exec exec(host_device, static_cast<int>(config.train.threads));
  const TextEncoder encoder = TextEncoder::load(exec, config.samples.text_encoder);
  std::vector<std::string> texts;
  for (const auto& prompt : prompts.prompts) texts.push_back(prompt.text);
  return encode_prompts(exec, encoder, texts, settings, widths);
}

}  // namespace

Preview preview_images(const TrainConfig& config, Communicator& communicator) {
  PromptSet prompts = read_prompts(config.samples.prompts);
  const auto count = std::min<std::size_t>(prompts.prompts.size(), config.samples.count);
  prompts.prompts.resize(count);
  EncodedPrompts encoded = encode(config, prompts);
  const auto latents = CacheManifest::load(config.data.latents);
  GenerateOptions options;
  options.guidance.scale = static_cast<float>(config.samples.guidance);
  options.steps = static_cast<int>(config.samples.steps);
  options.latent_height = static_cast<int>(latents.shape.at(1));
  options.latent_width = static_cast<int>(latents.shape.at(2));
  SamplerConfig sampler;
  sampler.schedule = schedule_of(config.diffusion);
  const auto preview = std::make_shared<const PreviewModels>(
      PreviewModels{std::move(prompts), std::move(encoded),
                    Vae::load(config.samples.vae, DType::f32, device_of(config, communicator)),
                    std::move(sampler), options});
  const auto seed = static_cast<std::uint64_t>(config.samples.seed);

  return [preview, seed, rank = communicator.rank(),
          ranks = communicator.size()](const PreviewRequest& request) {
    std::vector<ImageRequest> mine;
    const auto& all = preview->prompts.prompts;
    for (std::size_t i = rank; i < all.size(); i += ranks)
      mine.push_back(
          {static_cast<std::int64_t>(i), seed + static_cast<std::uint64_t>(all[i].row), 0});
    const auto images =
        generate_images(request.exec, request.unet, request.weights, preview->sampler, preview->vae,
                        preview->encoded, mine, preview->options);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const Prompt& prompt = all[mine[i].prompt];
      write_file_atomically(request.dir + "/" + image_file_name(prompt.id, 0),
                            encode_png(images[i], {{"prompt", prompt.text},
                                                   {"step", std::to_string(request.step)},
                                                   {"seed", std::to_string(mine[i].seed)}}));
    }
  };
}

}  // namespace strata::commands
