#include "train/config.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {

namespace {

constexpr double largest_integer = 9e15;  // integers up to here are exact in a double
constexpr double largest = std::numeric_limits<double>::max();
constexpr double smallest = std::numeric_limits<double>::min();
constexpr double below_one = 0.9999999999;

/// Collects the fields of one table.
class Table {
 public:
  Table(std::vector<Field>& fields, std::string_view name) : fields_(fields), name_(name) {}

  void path(std::string_view key, std::string& value, std::string_view doc) {
    Field f{name_, key, &value, doc};
    f.is_path = true;
    fields_.push_back(f);
  }
  void choice(std::string_view key, std::string& value, std::vector<std::string_view> choices,
              Effect effect, std::string_view doc) {
    fields_.push_back({name_, key, &value, doc, 0, 0, std::move(choices), effect});
  }
  void integer(std::string_view key, std::int64_t& value, double minimum, double maximum,
               Effect effect, std::string_view doc) {
    fields_.push_back({name_, key, &value, doc, minimum, maximum, {}, effect});
  }
  void number(std::string_view key, double& value, double minimum, double maximum, Effect effect,
              std::string_view doc) {
    fields_.push_back({name_, key, &value, doc, minimum, maximum, {}, effect});
  }
  Field& other(std::string_view key, decltype(Field::value) value, Effect effect,
               std::string_view doc) {
    fields_.push_back({name_, key, value, doc, 0, 0, {}, effect});
    return fields_.back();
  }

 private:
  std::vector<Field>& fields_;
  std::string_view name_;
};

void describe_data(Table t, DataConfig& c) {
  t.path("latents", c.latents, "latent cache, made by `strata cache latents`");
  t.path("text", c.text, "text cache of one strategy, made by `strata cache text`");
  t.other("pooled", &c.pooled, Effect::run,
          "also condition on the text cache's pooled vectors (class_embedding)");
  t.other("also_in", &c.also_in, Effect::none,
          "further caches whose samples count: runs to be compared train on the same list")
      .is_path = true;
  t.integer("prefetch", c.prefetch, 1, 1024, Effect::none,
            "microbatches read ahead of the training loop");
}

void describe_model(Table t, ModelConfig& c) {
  t.path("unet", c.unet, "the U-Net's config.json (or its folder): trained from random weights");
  t.path("init", c.init,
         "diffusers U-Net folder (or the pipeline around it) to start from, instead");
  t.choice("text_projection", c.text_projection, {"auto", "always", "never"}, Effect::run,
           "encoder_hid_proj from the cache's width to the attention's: auto = where they differ");
}

void describe_diffusion(Table t, DiffusionConfig& c) {
  t.integer("timesteps", c.timesteps, 1, 1e6, Effect::run, "training timesteps, drawn uniformly");
  t.choice("beta_schedule", c.beta_schedule, {"scaled_linear", "linear", "squaredcos_cap_v2"},
           Effect::run, "scaled_linear = linear in the square root; squaredcos_cap_v2 = cosine");
  t.number("beta_start", c.beta_start, smallest, below_one, Effect::run, "first beta");
  t.number("beta_end", c.beta_end, smallest, below_one, Effect::run, "last beta");
  t.choice("prediction", c.prediction, {"epsilon", "v_prediction"}, Effect::run,
           "what the U-Net predicts");
  t.other("zero_terminal_snr", &c.zero_terminal_snr, Effect::run,
          "rescale the betas so that the last timestep has no signal; needs v_prediction");
  t.number("min_snr_gamma", c.min_snr_gamma, 0, 1e6, Effect::run,
           "min-SNR weighting of the loss (5 is usual); 0 = off");
}

void describe_optimizer(Table t, OptimizationConfig& c) {
  t.integer("batch", c.batch, 1, 1 << 24, Effect::run, "images a step, over all ranks");
  t.integer("microbatch", c.microbatch, 1, 1 << 20, Effect::rounding,
            "at most this many images a rank at once; gradients accumulate over the rest");
  t.integer("steps", c.steps, 0, 1e12, Effect::none, "steps of the whole run");
  t.number("lr", c.lr, 0, 1e3, Effect::run, "AdamW's learning rate after the warm-up");
  t.integer("warmup", c.warmup, 0, 1e12, Effect::run, "steps of linear warm-up");
  t.choice("schedule", c.schedule, {"constant", "cosine", "linear"}, Effect::run,
           "after the warm-up; cosine and linear reach 0 at `steps`");
  t.other("betas", &c.betas, Effect::run, "AdamW's beta1 and beta2").maximum = below_one;
  t.number("eps", c.eps, smallest, 1, Effect::run, "AdamW's epsilon");
  t.number("weight_decay", c.weight_decay, 0, 1e3, Effect::run,
           "decoupled decay, on every parameter");
  t.number("clip", c.clip, 0, largest, Effect::run,
           "largest norm of the gradient; 0 = no clipping");
  t.integer("seed", c.seed, 0, largest_integer, Effect::run,
            "of the initial weights, sample order, noise, timesteps and caption drop");
  t.number("caption_drop", c.caption_drop, 0, 1, Effect::run,
           "share of samples trained without their caption, for classifier-free guidance");
  t.number("ema_decay", c.ema_decay, 0, below_one, Effect::run,
           "moving average of the weights, used by previews and export; 0 = off");
  t.integer("ema_start", c.ema_start, 0, 1e12, Effect::run,
            "updates before the average begins; until then it is the weights");
  t.other("ema_warmup", &c.ema_warmup, Effect::run,
          "the average's decay grows as (1 + n) / (10 + n) until it reaches ema_decay");
}

void describe_machine(Table t, OptimizationConfig& c) {
  t.choice("device", c.device, {"host", "cuda"}, Effect::rounding,
           "what computes; cuda: one GPU a rank");
  t.other("graph", &c.graph, Effect::none,
          "on a GPU a step's ops are recorded and played as CUDA graphs; false: each is called");
  t.path(
      "plan_cache", c.plan_cache,
      "folder in which a GPU's measured choices of kernels are kept, which a resumed run repeats; "
      "empty: $XDG_CACHE_HOME/strata/cudnn");
  t.choice("precision", c.precision, {"bf16", "fp32"}, Effect::run,
           "of compute; master weights, optimizer and accumulation are always fp32");
  t.choice("reduce", c.reduce, {"fp32", "bf16"}, Effect::rounding, "gradients on the wire");
  t.choice("reduction", c.reduction, {"fast", "tree"}, Effect::rounding,
           "tree = the same bits on 1, 2 and 4 ranks");
  t.number(
      "bucket_mb", c.bucket_mb, 0.001, 65536, Effect::rounding,
      "bucket whose gradients are reduced and parameters gathered at once, in MB of parameters");
  t.other("overlap", &c.overlap, Effect::none,
          "ranks exchange gradients and weights while the passes compute; false = passes wait, the "
          "same bits");
  t.other("recompute", &c.recompute, Effect::none,
          "keep no activations inside the blocks and run each again in the backward pass: less "
          "memory, the same bits");
  t.integer("threads", c.threads, 0, 4096, Effect::none,
            "threads a rank; 0 = what the launcher allows");
  t.integer("log_every", c.log_every, 1, 1e9, Effect::none, "steps between records of metrics");
  t.integer("checkpoint_every", c.checkpoint_every, 0, 1e12, Effect::none,
            "steps between checkpoints; 0 = only at the end and on a stop");
  t.other("checkpoint_background", &c.checkpoint_background, Effect::none,
          "write checkpoints while the next steps run; false = training waits, the same bytes");
  t.integer("keep", c.keep, 0, 1e6, Effect::none, "newest checkpoints kept, at least 2; 0 = all");
  t.integer("keep_every", c.keep_every, 0, 1e12, Effect::none,
            "checkpoints at multiples of this many steps are kept for good; 0 = none");
  t.integer("verify_every", c.verify_every, 0, 1e12, Effect::none,
            "steps between comparisons of the weights of all ranks by hash; 0 = never");
  t.number(
      "hang_timeout", c.hang_timeout, 0, 1e6, Effect::none,
      "seconds without a sign of life after which a rank is ended (exit 86); ten times as long "
      "where it loads, saves, validates or makes its first step; 0 = never");
  t.integer(
      "give_up_after", c.give_up_after, 0, 1e6, Effect::none,
      "restarts in a row without a new checkpoint until a start refuses (exit 89); 0 = never");
}

void describe_validation(Table t, ValidationConfig& c) {
  t.number("fraction", c.fraction, 0, 0.5, Effect::run,
           "share of sample ids, chosen by hash, that is never trained on; 0 = no validation");
  t.integer("count", c.count, 0, 1e9, Effect::run,
            "at most so many held-out samples, those with the smallest hash; 0 = all");
  t.integer("every", c.every, 1, 1e12, Effect::none, "steps between validations");
  t.integer("timesteps", c.timesteps, 1, 1000, Effect::none,
            "fixed timesteps a held-out sample is measured at, spread evenly over the quartiles");
}

void describe_samples(Table t, SamplesConfig& c) {
  t.path("prompts", c.prompts, "prompt file for images made while training; empty = none");
  t.path("text_encoder", c.text_encoder, "encoder of the text cache, for the prompts");
  t.path("vae", c.vae, "diffusers VAE folder, to decode the images");
  t.integer("every", c.every, 1, 1e12, Effect::none, "steps between image sets");
  t.integer("count", c.count, 1, 4096, Effect::none, "the first so many prompts");
  t.number("guidance", c.guidance, 0, 1000, Effect::none, "classifier-free guidance");
  t.integer("steps", c.steps, 1, 1000, Effect::none, "DDIM steps");
  t.integer("seed", c.seed, 0, largest_integer, Effect::none, "of prompt 0; prompt i has seed + i");
}

bool is_empty(const std::string& path) {
  return path.empty();
}

}  // namespace

std::vector<Field> describe(TrainConfig& config) {
  std::vector<Field> fields;
  describe_data(Table(fields, "data"), config.data);
  describe_model(Table(fields, "model"), config.model);
  describe_diffusion(Table(fields, "diffusion"), config.diffusion);
  describe_optimizer(Table(fields, "train"), config.train);
  describe_machine(Table(fields, "train"), config.train);
  describe_validation(Table(fields, "validation"), config.validation);
  describe_samples(Table(fields, "samples"), config.samples);
  Table(fields, "output").path("dir", config.output.dir, "run folder");
  return fields;
}

std::span<const std::pair<std::string_view, std::string_view>> config_tables() {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 7> tables{{
      {"data", "what is trained on"},
      {"model", "what is trained"},
      {"diffusion", "the denoising objective"},
      {"train", "optimizer, batch, precision, records"},
      {"validation", "loss on held-out samples at fixed timesteps with fixed noise"},
      {"samples", "images made while training"},
      {"output", "where everything goes"},
  }};
  return tables;
}

void validate(const TrainConfig& config, int ranks) {
  const auto& t = config.train;
  const auto require = [](const std::string& value, const char* key, const char* what) {
    if (is_empty(value)) fail(Exit::usage, "{}: required: {}", key, what);
  };
  require(config.data.latents, "data.latents", "the latent cache");
  require(config.data.text, "data.text", "the text cache");
  require(config.output.dir, "output.dir", "the run folder");
  if (is_empty(config.model.unet) == is_empty(config.model.init))
    fail(Exit::usage, "model: exactly one of model.unet and model.init must be given");
  if (config.diffusion.beta_start > config.diffusion.beta_end)
    fail(Exit::usage, "diffusion.beta_start: {} is above diffusion.beta_end {}",
         config.diffusion.beta_start, config.diffusion.beta_end);
  if (config.diffusion.zero_terminal_snr && config.diffusion.timesteps < 2)
    fail(Exit::usage, "diffusion.zero_terminal_snr: needs two timesteps");
  if (config.diffusion.zero_terminal_snr && config.diffusion.prediction == "epsilon")
    fail(Exit::usage,
         "diffusion.zero_terminal_snr: needs diffusion.prediction v_prediction: without signal "
         "epsilon says nothing about the picture");
  if ((t.ema_start > 0 || t.ema_warmup) && t.ema_decay == 0)
    fail(Exit::usage, "train.{}: train.ema_decay is 0", t.ema_warmup ? "ema_warmup" : "ema_start");
  if (t.betas.size() != 2)
    fail(Exit::usage, "train.betas: two numbers expected, there are {}", t.betas.size());
  if (t.batch % t.microbatch != 0 && t.batch > t.microbatch)
    fail(Exit::usage, "train.batch: {} is not divisible by train.microbatch {}", t.batch,
         t.microbatch);
  if (t.schedule != "constant" && t.warmup > t.steps)
    fail(Exit::usage, "train.warmup: {} is more than train.steps {}", t.warmup, t.steps);
  if (!is_empty(config.samples.prompts)) {
    require(config.samples.text_encoder, "samples.text_encoder", "samples.prompts is given");
    require(config.samples.vae, "samples.vae", "samples.prompts is given");
  }
  if (ranks > 0 && t.batch % ranks != 0)
    fail(Exit::usage, "train.batch: {} is not divisible by {} ranks", t.batch, ranks);
}

double learning_rate(const OptimizationConfig& c, std::int64_t step) {
  if (step <= c.warmup) return c.lr * static_cast<double>(step) / static_cast<double>(c.warmup);
  if (c.schedule == "constant") return c.lr;
  const double rest = static_cast<double>(std::max<std::int64_t>(c.steps - c.warmup, 1));
  const double done = std::min(1.0, static_cast<double>(step - c.warmup) / rest);
  if (c.schedule == "linear") return c.lr * (1 - done);
  return c.lr * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

double ema_decay(const OptimizationConfig& c, std::int64_t update) {
  const std::int64_t n = update - c.ema_start - 1;
  if (n < 0 || (c.ema_warmup && n == 0)) return 0;
  if (!c.ema_warmup) return c.ema_decay;
  return std::min(c.ema_decay, static_cast<double>(1 + n) / static_cast<double>(10 + n));
}

}  // namespace strata
