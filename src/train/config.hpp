#pragma once
// The training config: ONE typed description (`describe`) drives TOML parsing, defaults, `config
// show`,
// `--set table.key=value` and the documentation. The defaults are the paper's recipe.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace strata {

struct DataConfig {
  std::string latents;
  std::string text;
  bool pooled = false;
  std::vector<std::string> also_in;
  std::int64_t prefetch = 4;
};

struct ModelConfig {
  std::string unet;
  std::string init;
  std::string text_projection = "auto";
};

struct DiffusionConfig {
  std::int64_t timesteps = 1000;
  std::string beta_schedule = "scaled_linear";
  double beta_start = 0.00085;
  double beta_end = 0.012;
  std::string prediction = "epsilon";
  bool zero_terminal_snr = false;
  double min_snr_gamma = 0;
};

struct OptimizationConfig {
  std::int64_t batch = 2048;
  std::int64_t microbatch = 16;
  std::int64_t steps = 800000;
  double lr = 1e-4;
  std::int64_t warmup = 10000;
  std::string schedule = "constant";
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip = 0;
  std::int64_t seed = 17;
  double caption_drop = 0.1;
  double ema_decay = 0;
  std::int64_t ema_start = 0;
  bool ema_warmup = false;
  std::string device = "host";
  bool graph = true;
  std::string plan_cache;
  std::string precision = "bf16";
  std::string reduce = "fp32";
  std::string reduction = "fast";
  double bucket_mb = 25;
  bool overlap = true;
  bool recompute = false;
  std::int64_t threads = 0;
  std::int64_t log_every = 10;
  std::int64_t checkpoint_every = 10000;
  bool checkpoint_background = true;
  std::int64_t keep = 3;
  std::int64_t keep_every = 0;
  std::int64_t verify_every = 100;
  double hang_timeout = 60;
  std::int64_t give_up_after = 3;
};

struct ValidationConfig {
  double fraction = 0;
  std::int64_t count = 256;
  std::int64_t every = 1000;
  std::int64_t timesteps = 4;
};

struct SamplesConfig {
  std::string prompts;
  std::string text_encoder;
  std::string vae;
  std::int64_t every = 1000;
  std::int64_t count = 8;
  double guidance = 7.0;
  std::int64_t steps = 50;
  std::int64_t seed = 0;
};

struct OutputConfig {
  std::string dir;
};

struct TrainConfig {
  DataConfig data;
  ModelConfig model;
  DiffusionConfig diffusion;
  OptimizationConfig train;
  ValidationConfig validation;
  SamplesConfig samples;
  OutputConfig output;
};

/// What another value means for a run that is resumed.
enum class Effect {
  none,      // nothing that the weights see
  rounding,  // the same run up to rounding: a change is said in one line
  run,       // another run: a checkpoint refuses it (78)
};

/// One key of the config: where it lives, what it may be, what it means.
struct Field {
  std::string_view table, key;
  std::variant<std::string*, std::int64_t*, double*, bool*, std::vector<double>*,
               std::vector<std::string>*>
      value;
  std::string_view doc;
  double minimum = 0, maximum = 0;  // of numbers, inclusive
  std::vector<std::string_view> choices{};
  Effect effect = Effect::none;
  bool is_path = false;
  std::string name() const;       // "train.lr"
  std::string type_name() const;  // "integer", "number", "string", "path", ...
  std::string as_toml() const;    // the value as it stands in a TOML file
};

/// Every key with pointers into `config`, in the order in which they are shown.
std::vector<Field> describe(TrainConfig& config);
/// The tables' one-line documentation, in order.
std::span<const std::pair<std::string_view, std::string_view>> config_tables();

/// Reads a TOML file (at most 1 MiB), then applies `table.key=value` overrides; paths become
/// absolute. Error(64) with file:line:column, the key, what is wrong and the nearest name.
TrainConfig load_train_config(const std::string& path, std::span<const std::string> overrides = {});
/// The same from text; `origin` stands in messages for the file.
TrainConfig parse_train_config(std::string_view toml, const std::string& origin,
                               std::span<const std::string> overrides = {});
/// What no single key can tell: Error(64). ranks = 0: not known yet.
void validate(const TrainConfig& config, int ranks = 0);

/// Complete TOML; with_docs puts each key's documentation above it.
std::string to_toml(const TrainConfig& config, bool with_docs);
/// Every key with type, default and meaning, and what other trainers call it, as Markdown.
std::string config_reference();
/// SHA-256 over the keys whose effect is at least `effect`.
std::string config_hash(const TrainConfig& config, Effect effect = Effect::run);
/// "key: a -> b" for every key of at least this effect that differs.
std::vector<std::string> config_differences(const TrainConfig& a, const TrainConfig& b,
                                            Effect effect = Effect::none);

/// Learning rate of update `step` (1 = the first): linear warm-up, then constant, cosine or linear
/// to 0.
double learning_rate(const OptimizationConfig& config, std::int64_t step);
/// Decay of the moving average at update `update` (1 = the first): 0, so that it is the weights,
/// until ema_start; then ema_decay. With ema_warmup the n-th update after ema_start + 1 has at most
/// (1 + n) / (10 + n), and that one itself 0, as diffusers' EMAModel has it.
double ema_decay(const OptimizationConfig& config, std::int64_t update);

}  // namespace strata
