// `strata sample`: prompts -> PNG images.

#include "commands/commands.hpp"
#include "commands/eval_options.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/safetensors.hpp"
#include "core/stop_signals.hpp"
#include "dist/node_memory.hpp"
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
      "guidance-rescale", po::value<float>()->default_value(0),
      "0..1: how far a guided prediction gets the conditional one's standard deviation back")(
      "steps", po::value<int>()->default_value(50), "denoising steps")(
      "sampler", po::value<std::string>()->default_value("ddim"), "ddim | euler | dpmpp_2m")(
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
      "pooled", toggle(), "also the pooled vector (default: where the U-Net takes one)")(
      "weights", po::value<std::string>()->default_value("auto"), "auto | master | ema")(
      "precision", po::value<std::string>()->default_value("fp32"), "fp32 | bf16")(
      "device", po::value<std::string>()->default_value("host"), "host | cuda: one GPU a rank")(
      "dump", toggle(),
      "also OUT/dump/<image>.safetensors: noise (C,h,w), tokens (t,D), pooled (P), latents "
      "(C,h,w)")("overwrite", toggle(), "replace images of other settings");
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
  // A diffusers folder does not say how its captions were encoded, only whether it wants a pooled
  // vector.
  TextSettings text =
      denoiser.text.value_or(TextSettings{.pooled = denoiser.config.pooled_dim > 0});
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

/// What an image depends on besides prompt, seed, guidance scale, steps, sampler and weights.
std::vector<std::pair<std::string, std::string>> settings_of(const Options& options,
                                                             const Denoiser& denoiser,
                                                             const TextSettings& text,
                                                             const Vae& vae, float rescale) {
  std::vector<std::pair<std::string, std::string>> settings{
      {"guidance_rescale", fmt::format("{}", rescale)},
      {"weights", denoiser.kind == WeightKind::ema ? "ema" : "master"},
      {"scheduler", sha256_hex(denoiser.scheduler)},
      {"precision", options.text("precision")},
      {"size", fmt::format("{}", options.get<int>("size"))},
      {"strategy", text.strategy},
      {"attention", text.attention},
      {"max_tokens", fmt::format("{}", text.max_tokens)},
      {"vae", vae.weights_sha256()}};
  // Other bits than the host's.
  if (options.text("device") != "host") settings.emplace_back("device", options.text("device"));
  return settings;
}

/// The parameters on exec's device, begun where the device reads most of them best.
Tensor where_used(Exec& exec, const Denoiser& denoiser) {
  const Tensor flat = denoiser.flat;
  if (exec.device() == flat.device) return flat;
  const std::int64_t count = flat.numel();
  const std::int64_t lead = UNet(denoiser.config).parameters().lead(flat.dtype);
  const Tensor there = exec.empty(flat.dtype, {lead + count}).rows(lead, lead + count);
  memory::copy(there.data, there.device, flat.data, flat.device, flat.bytes());
  return there;
}

/// The parts that make images, loaded once.
class ImageMaker {
 public:
  ImageMaker(const Options& options, const Denoiser& denoiser, const TextSettings& text,
             const Vae& vae, const PromptSet& prompts, const ImageFolderOptions& folder,
             Device device, Communicator& world)
      : denoiser_(denoiser),
        text_(text),
        vae_(vae),
        prompts_(prompts),
        folder_(folder),
        exec_(device),
        flat_(where_used(exec_, denoiser)),
        encoder_(TextEncoder::load(exec_, folder_of(options, "encoder"))),
        unet_(denoiser.config),
        weights_(unet_.parameters(), flat_) {
    generate_.steps = folder.steps;
    generate_.sampler = sampler_kind(folder.sampler);
    generate_.batch = folder.batch;
    generate_.guidance.rescale = guidance_rescale(options);
    const int size = options.get<int>("size"), factor = vae.downsample_factor();
    if (size < 0 || size % factor != 0)
      fail(Exit::usage, "--size {}: not a multiple of the VAE's {}", size, factor);
    check_tile(vae, folder.tile);
    generate_.tile = folder.tile;
    generate_.latent_height = generate_.latent_width = size / factor;
    sampler_ = denoiser.sampler(generate_.sampler);
    make_sampler(generate_.sampler, sampler_, folder.steps);
    dumps_ = options.flag("dump");
    share_layouts(exec_, world, flat_);
  }

  /// The model's own folder, unless another one is given for this part.
  static const std::string& folder_of(const Options& options, const char* part) {
    if (options.has(part)) return options.text(part);
    return options.text(options.has("unet") ? "unet" : "checkpoint");
  }
  static float guidance_rescale(const Options& options) {
    const auto rescale = options.get<float>("guidance-rescale");
    if (!(rescale >= 0 && rescale <= 1)) fail(Exit::usage, "--guidance-rescale {}", rescale);
    return rescale;
  }

  std::vector<Image> operator()(std::span<const ImageRequest> requests, double cfg) {
    std::vector<std::string> texts;
    std::vector<ImageRequest> own(requests.begin(), requests.end());
    for (auto& request : own) {
      texts.push_back(text_of(prompts_.prompts[request.prompt], folder_.field));
      request.prompt = static_cast<std::int64_t>(texts.size()) - 1;
    }
    generate_.guidance.scale = static_cast<float>(cfg);
    if (dumps_)
      generate_.dump = [&](const ImageRequest& request, const PictureDump& dump) {
        // The rows of a call are its own prompts: find the picture's name by its row.
        write_dump(requests[static_cast<std::size_t>(request.prompt)], cfg, dump);
      };
    return generate_images(exec_, unet_, weights_, sampler_, vae_,
                           encode_prompts(exec_, encoder_, texts, text_, denoiser_.config), own,
                           generate_);
  }

 private:
  void write_dump(const ImageRequest& request, double cfg, const PictureDump& dump) const {
    const std::string dir = image_folder(folder_, cfg) + "/dump";
    make_directories(dir);
    SafetensorsWriter writer;
    writer.add("noise", dump.noise);
    writer.add("tokens", dump.tokens);
    if (dump.pooled) writer.add("pooled", dump.pooled);
    writer.add("latents", dump.latents);
    const std::string& id = prompts_.prompts[request.prompt].id;
    const std::string name = image_file_name(id, request.variation);
    writer.write(dir + "/" + name.substr(0, name.rfind('.')) + ".safetensors");
  }

  const Denoiser& denoiser_;
  const TextSettings& text_;
  const Vae& vae_;
  const PromptSet& prompts_;
  const ImageFolderOptions& folder_;
  Exec exec_;
  Tensor flat_;  // the denoiser's parameters where they are used
  TextEncoder encoder_;
  UNet unet_;
  Weights weights_;
  SamplerConfig sampler_;
  GenerateOptions generate_;
  bool dumps_ = false;
};

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
  const StopSignals signals;
  if (options.has("checkpoint") == options.has("unet"))
    fail(Exit::usage, "sample: one of --checkpoint and --unet is needed");
  const DType dtype =
      choice(options, "precision", {"fp32", "bf16"}) == "fp32" ? DType::f32 : DType::bf16;
  ImageFolderOptions folder = folder_options(options);
  const WeightKind kind = weight_kind(options.text("weights"));
  const float rescale = ImageMaker::guidance_rescale(options);
  const PromptSet prompts = read_prompts(options.text("prompts"));
  for (const Prompt& prompt : prompts.prompts) text_of(prompt, folder.field);

  const Device device = eval_device(options, world.local_rank(), world.local_size());
  const Denoiser denoiser =
      load_denoiser(options.text(options.has("unet") ? "unet" : "checkpoint"), dtype, kind);
  const TextSettings text = text_settings(options, denoiser);
  const Vae vae = Vae::load(ImageMaker::folder_of(options, "vae"), DType::f32, device);
  folder.checkpoint = denoiser.hash;
  folder.settings = settings_of(options, denoiser, text, vae, rescale);
  ImageMaker maker(options, denoiser, text, vae, prompts, folder, device, world);

  const std::int64_t made = fill_image_folder(world, prompts, folder, std::ref(maker));
  log::info("{} of {} images made in {}", made,
            prompts.prompts.size() * folder.images_per_prompt * folder.cfg.size(), folder.out);
  return 0;
}

}  // namespace strata::commands
