#include "diffusion/sampler.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "diffusion/ddim.hpp"

namespace strata {

namespace {

using nlohmann::json;

template <class T>
T value_or(const json& config, const std::string& path, const char* key, T fallback) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return fallback;
  bool fits = found->is_number();
  if constexpr (std::is_same_v<T, bool>) fits = found->is_boolean();
  if constexpr (std::is_same_v<T, int>) fits = found->is_number_integer();
  if constexpr (std::is_same_v<T, std::string>) fits = found->is_string();
  if (!fits) fail(Exit::data, "{}: {}: unexpected value {}", path, key, found->dump());
  return found->get<T>();
}

SamplerConfig::Spacing parse_spacing(const std::string& name, const std::string& path) {
  if (name == "leading") return SamplerConfig::Spacing::leading;
  if (name == "trailing") return SamplerConfig::Spacing::trailing;
  if (name == "linspace") return SamplerConfig::Spacing::linspace;
  fail(Exit::data, "{}: timestep_spacing: \"{}\" is neither leading, trailing nor linspace", path,
       name);
}

// The file itself, the scheduler's folder, or the pipeline's.
std::string config_file(const std::string& path) {
  if (!directory_exists(path)) return path;
  const std::string inner = path + "/scheduler/scheduler_config.json";
  return file_exists(inner) ? inner : path + "/scheduler_config.json";
}

ScheduleConfig parse_schedule(const json& document, const std::string& path) {
  if (const auto betas = document.find("trained_betas");
      betas != document.end() && !betas->is_null())
    fail(Exit::data, "{}: trained_betas: only scheduled betas are supported", path);
  if (value_or(document, path, "rescale_betas_zero_snr", false))
    fail(Exit::data, "{}: rescale_betas_zero_snr: not supported", path);
  ScheduleConfig config;
  config.timesteps = value_or(document, path, "num_train_timesteps", 1000);
  config.beta_start = value_or(document, path, "beta_start", 0.0001);
  config.beta_end = value_or(document, path, "beta_end", 0.02);
  const auto betas = value_or<std::string>(document, path, "beta_schedule", "linear");
  if (betas == "linear")
    config.beta_schedule = BetaSchedule::linear;
  else if (betas != "scaled_linear")
    fail(Exit::data, "{}: beta_schedule: \"{}\" is neither scaled_linear nor linear", path, betas);
  const auto prediction = value_or<std::string>(document, path, "prediction_type", "epsilon");
  if (prediction == "v_prediction")
    config.prediction = Prediction::v_prediction;
  else if (prediction != "epsilon")
    fail(Exit::data, "{}: prediction_type: \"{}\" is neither epsilon nor v_prediction", path,
         prediction);
  if (config.timesteps < 1 || config.timesteps > 1'000'000)
    fail(Exit::data, "{}: num_train_timesteps: {} is not in 1..1000000", path, config.timesteps);
  if (!(config.beta_start > 0 && config.beta_start <= config.beta_end && config.beta_end < 1))
    fail(Exit::data, "{}: beta_start {} and beta_end {} must satisfy 0 < start <= end < 1", path,
         config.beta_start, config.beta_end);
  return config;
}

std::string_view name_of(SamplerConfig::Spacing spacing) {
  switch (spacing) {
    case SamplerConfig::Spacing::leading:
      return "leading";
    case SamplerConfig::Spacing::trailing:
      return "trailing";
    case SamplerConfig::Spacing::linspace:
      return "linspace";
  }
  return "?";
}

}  // namespace

SamplerKind sampler_kind(std::string_view name) {
  if (name == "ddim") return SamplerKind::ddim;
  fail(Exit::usage, "sampler \"{}\" is not known; there is: ddim", name);
}

std::string_view name_of(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::ddim:
      return "ddim";
  }
  return "?";
}

SamplerConfig SamplerConfig::from_json_file(const std::string& path, SamplerKind kind) {
  STRATA_CHECK(kind == SamplerKind::ddim, "no defaults of this sampler");
  const std::string file = config_file(path);
  const json document = read_json_file(file, std::uint64_t{1} << 20);
  if (!document.is_object()) fail(Exit::data, "{}: not a JSON object", file);
  if (value_or(document, file, "thresholding", false))
    fail(Exit::data, "{}: thresholding: dynamic thresholding is not supported", file);
  SamplerConfig config;
  config.schedule = NoiseSchedule(parse_schedule(document, file));
  config.spacing =
      parse_spacing(value_or<std::string>(document, file, "timestep_spacing", "leading"), file);
  config.steps_offset = value_or(document, file, "steps_offset", 0);
  config.set_alpha_to_one = value_or(document, file, "set_alpha_to_one", true);
  config.clip_sample = value_or(document, file, "clip_sample", true);
  config.clip_sample_range = value_or(document, file, "clip_sample_range", 1.0f);
  if (config.steps_offset < 0 || config.steps_offset >= config.schedule.timesteps())
    fail(Exit::data, "{}: steps_offset: {} is not in 0..{}", file, config.steps_offset,
         config.schedule.timesteps() - 1);
  if (!(config.clip_sample_range > 0))
    fail(Exit::data, "{}: clip_sample_range: {} is not above 0", file, config.clip_sample_range);
  return config;
}

std::string SamplerConfig::to_json() const {
  const ScheduleConfig& s = schedule.config();
  nlohmann::ordered_json document{
      {"_class_name", "DDIMScheduler"},
      {"beta_start", s.beta_start},
      {"beta_end", s.beta_end},
      {"beta_schedule", s.beta_schedule == BetaSchedule::linear ? "linear" : "scaled_linear"},
      {"num_train_timesteps", s.timesteps},
      {"prediction_type", s.prediction == Prediction::epsilon ? "epsilon" : "v_prediction"},
      {"timestep_spacing", name_of(spacing)},
      {"steps_offset", steps_offset},
      {"set_alpha_to_one", set_alpha_to_one},
      {"clip_sample", clip_sample},
      {"clip_sample_range", clip_sample_range},
      {"trained_betas", nullptr}};
  return document.dump(2) + "\n";
}

void Sampler::scale_input(int, std::span<float> y, std::span<const float> x) const {
  if (y.data() != x.data()) std::copy(x.begin(), x.end(), y.begin());
}

std::unique_ptr<Sampler> make_sampler(SamplerKind kind, const SamplerConfig& config, int steps) {
  if (steps < 1 || steps > config.schedule.timesteps())
    fail(Exit::usage, "steps: {} is not in 1..{}", steps, config.schedule.timesteps());
  switch (kind) {
    case SamplerKind::ddim:
      return std::make_unique<Ddim>(config, steps);
  }
  fail(Exit::internal, "no such sampler");
}

void guide(std::span<float> prediction, std::span<const float> unconditional,
           std::span<const float> conditional, float scale) {
  STRATA_CHECK(prediction.size() == unconditional.size() &&
               prediction.size() == conditional.size());
  for (std::size_t i = 0; i < prediction.size(); ++i)
    prediction[i] = unconditional[i] + scale * (conditional[i] - unconditional[i]);
}

}  // namespace strata
