// `strata sample`: prompts -> PNG images.

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "evaluate/denoiser.hpp"
#include "evaluate/encode_prompts.hpp"
#include "evaluate/image_folder.hpp"
#include "model/vae_tiles.hpp"
#include "model/weights.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;

void add_options(Options& options) {
  options.add()("checkpoint", po::value<std::string>(),
                "checkpoint or run folder (its newest checkpoint), or a diffusers pipeline folder")(
      "unet", po::value<std::string>(), "diffusers U-Net folder, in the place of --checkpoint")(
      "encoder", po::value<std::string>(), "text encoder folder (default: the pipeline's)")(
      "vae", po::value<std::string>(), "VAE folder (default: the pipeline's)")(
      "prompts", po::value<std::string>(), "JSON lines, plain text or genai_image.json")(
      "out", po::value<std::string>(), "images folder")(
      "cfg", po::value<std::string>()->default_value("7.0"),
      "guidance scale; several, comma separated, make subfolders cfg-7.0, ...")(
      "steps", po::value<int>()->default_value(50), "denoising steps")(
      "sampler", po::value<std::string>()->default_value("ddim"), "ddim")(
      "seed", po::value<std::uint64_t>()->default_value(0), "prompt r has seed + r")(
      "images-per-prompt", po::value<int>()->default_value(1), "images of each prompt")(
      "batch", po::value<int>()->default_value(8), "images at once on a rank")(
      "size", po::value<int>()->default_value(0),
      "pixels a side (default: the U-Net's sample size)")(
      "tile", po::value<int>()->default_value(0),
      "pixels a side of overlapping tiles that the VAE decodes one by one; 0: in one piece")(
      "text-field", po::value<std::string>()->default_value("prompt"), "prompt | upsampled")(
      "strategy", po::value<std::string>(), "text strategy (default: the checkpoint's, else last)")(
      "attention", po::value<std::string>(), "auto | causal | bidirectional")(
      "max-tokens", po::value<std::int64_t>(), "tokens of a caption (default: the checkpoint's)")(
      "pooled", toggle(), "also the pooled vector (default: the checkpoint's)")(
      "weights", po::value<std::string>()->default_value("auto"), "auto | master | ema")(
      "precision", po::value<std::string>()->default_value("fp32"), "fp32 | bf16")(
      "overwrite", toggle(), "replace images of other settings");
}

std::vector<double> parse_cfg(const std::string& list) {
  std::vector<double> values;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::string item = list.substr(begin, end - begin);
    char* last = nullptr;
    const double value = std::strtod(item.c_str(), &last);
    if (item.empty() || *last != '\0' || !(value >= 0 && value <= 1000))
      fail(Exit::usage, "--cfg: \"{}\" is no guidance scale in 0..1000", item);
    if (std::find(values.begin(), values.end(), value) != values.end())
      fail(Exit::usage, "--cfg: {} stands twice", item);
    values.push_back(value);
    begin = end + 1;
  }
  return values;
}

std::string choice(const Options& options, const char* name,
                   std::initializer_list<const char*> allowed) {
  const std::string& value = options.text(name);
  for (const char* candidate : allowed)
    if (value == candidate) return value;
  fail(Exit::usage, "--{} {}: there are: {}", name, value, fmt::join(allowed, ", "));
}

ImageFolderOptions folder_options(const Options& options) {
  ImageFolderOptions folder;
  folder.out = options.text("out");
  folder.cfg = parse_cfg(options.text("cfg"));
  folder.steps = options.get<int>("steps");
  folder.sampler = name_of(sampler_kind(options.text("sampler")));
  folder.seed = options.get<std::uint64_t>("seed");
  folder.images_per_prompt = options.get<int>("images-per-prompt");
  folder.batch = options.get<int>("batch");
  folder.tile = options.get<int>("tile");
  if (folder.images_per_prompt < 1 || folder.images_per_prompt > 100'000)
    fail(Exit::usage, "--images-per-prompt {}", folder.images_per_prompt);
  if (folder.batch < 1 || folder.batch > 4096) fail(Exit::usage, "--batch {}", folder.batch);
  folder.field = choice(options, "text-field", {"prompt", "upsampled"}) == "prompt"
                     ? TextField::prompt
                     : TextField::upsampled;
  folder.overwrite = options.flag("overwrite");
  return folder;
}

TextSettings text_settings(const Options& options, const Denoiser& denoiser) {
  TextSettings text = denoiser.text.value_or(TextSettings{});
  if (options.has("strategy")) text.strategy = options.text("strategy");
  if (options.has("attention")) text.attention = options.text("attention");
  if (options.has("max-tokens")) text.max_tokens = options.get<std::int64_t>("max-tokens");
  if (text.max_tokens < 0) fail(Exit::usage, "--max-tokens {}", text.max_tokens);
  if (options.flag("pooled")) text.pooled = true;
  const std::int64_t pooled_dim = denoiser.config.pooled_dim;
  if (text.pooled != (pooled_dim > 0))
    fail(Exit::usage, "--pooled: this U-Net takes {}",
         pooled_dim > 0 ? "a pooled vector" : "no pooled vector");
  return text;
}

}  // namespace

int sample(const Arguments& arguments, Communicator& world) {
  Options options(
      "sample --checkpoint DIR|--unet DIR --encoder DIR --vae DIR --prompts FILE --out DIR",
      "Makes the images of a prompt set. A prompt's image is the same whatever the ranks; "
      "a stopped job\ncontinues where it was.",
      "mpirun -np 2 strata sample --checkpoint run --encoder llm --vae vae "
      "--prompts prompts.jsonl --out images --cfg 7.0");
  add_options(options);
  if (!options.parse(arguments)) return 0;
  if (options.has("checkpoint") == options.has("unet"))
    fail(Exit::usage, "sample: one of --checkpoint and --unet is needed");
  const std::string& model = options.text(options.has("unet") ? "unet" : "checkpoint");
  const DType dtype =
      choice(options, "precision", {"fp32", "bf16"}) == "fp32" ? DType::f32 : DType::bf16;
  ImageFolderOptions folder = folder_options(options);
  const WeightKind kind = weight_kind(options.text("weights"));
  const PromptSet prompts = read_prompts(options.text("prompts"));
  for (const Prompt& prompt : prompts.prompts) text_of(prompt, folder.field);

  const Denoiser denoiser = load_denoiser(model, dtype, kind);
  make_sampler(sampler_kind(folder.sampler), denoiser.sampler, folder.steps);
  const TextSettings text = text_settings(options, denoiser);
  folder.checkpoint = denoiser.hash;
  Exec exec;
  const Vae vae = Vae::load(options.has("vae") ? options.text("vae") : model);
  const auto encoder =
      TextEncoder::load(exec, options.has("encoder") ? options.text("encoder") : model);
  const UNet unet(denoiser.config);
  const Weights weights(unet.parameters(), denoiser.flat);

  GenerateOptions generate{
      .steps = folder.steps, .sampler = sampler_kind(folder.sampler), .batch = folder.batch};
  const int size = options.get<int>("size"), factor = vae.downsample_factor();
  if (size < 0 || size % factor != 0)
    fail(Exit::usage, "--size {}: not a multiple of the VAE's {}", size, factor);
  check_tile(vae, folder.tile);
  generate.tile = folder.tile;
  generate.latent_height = generate.latent_width = size / factor;

  const std::int64_t made = fill_image_folder(
      world, prompts, folder, [&](std::span<const ImageRequest> requests, double cfg) {
        std::vector<std::string> texts;
        std::vector<ImageRequest> own(requests.begin(), requests.end());
        for (auto& request : own) {
          texts.push_back(text_of(prompts.prompts[request.prompt], folder.field));
          request.prompt = static_cast<std::int64_t>(texts.size()) - 1;
        }
        generate.cfg = static_cast<float>(cfg);
        return generate_images(exec, unet, weights, denoiser.sampler, vae,
                               encode_prompts(exec, encoder, texts, text, denoiser.config), own,
                               generate);
      });
  log::info("{} of {} images made in {}", made,
            prompts.prompts.size() * folder.images_per_prompt * folder.cfg.size(), folder.out);
  return 0;
}

}  // namespace strata::commands
