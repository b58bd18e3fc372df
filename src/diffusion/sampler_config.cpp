#include "diffusion/sampler_config.hpp"

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "model/config_reader.hpp"

namespace strata {

namespace {

using Spacing = SamplerConfig::Spacing;
using Sigmas = SamplerConfig::Sigmas;

constexpr std::uint64_t max_bytes = std::uint64_t{32} << 20;  // trained_betas may be long
constexpr std::int64_t max_timesteps = 1'000'000;

// The file itself, the scheduler's folder, or the pipeline's.
std::string config_file(const std::string& path) {
  if (!directory_exists(path)) return path;
  const std::string inner = path + "/scheduler/scheduler_config.json";
  return file_exists(inner) ? inner : path + "/scheduler_config.json";
}

// Python's json writes infinities, which JSON does not know (`"lambda_min_clipped": -Infinity` is
// in every saved DPM-Solver config). 1e300 stands for them: it is above every lambda, and refused
// by the keys that have a range.
std::string with_finite_numbers(const std::string& text) {
  constexpr std::string_view infinity = "Infinity";
  std::string out;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!in_string && text.compare(i, infinity.size(), infinity) == 0) {
      out += "1e300";
      i += infinity.size() - 1;
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    if (in_string && text[i] == '\\') out += text[i++];
    if (i < text.size()) out += text[i];
  }
  return out;
}

// The entry of `values` whose name the key holds.
template <class T>
T one_of(const ConfigReader& file, const char* key, const std::string& otherwise,
         std::initializer_list<std::pair<std::string_view, T>> values) {
  const std::string name = file.text(key, otherwise);
  std::string known;
  for (const auto& [candidate, value] : values) {
    if (candidate == name) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", candidate);
  }
  file.refuse(key, fmt::format("not supported (supported: {})", known));
}

double positive(const ConfigReader& file, const char* key, double otherwise, double below) {
  const double value = file.number(key, otherwise);
  if (!(value > 0 && value < below)) file.refuse(key, fmt::format("not in 0..{:g}", below));
  return value;
}

ScheduleConfig read_schedule(const ConfigReader& file, SamplerKind kind) {
  ScheduleConfig c;
  c.timesteps = static_cast<int>(file.integer("num_train_timesteps", 1000, 1, max_timesteps));
  c.beta_schedule = one_of<BetaSchedule>(file, "beta_schedule", "linear",
                                         {{"linear", BetaSchedule::linear},
                                          {"scaled_linear", BetaSchedule::scaled_linear},
                                          {"squaredcos_cap_v2", BetaSchedule::squaredcos_cap_v2}});
  for (const double beta : file.numbers("trained_betas", max_timesteps)) {
    c.trained_betas.push_back(static_cast<float>(beta));
    if (!(c.trained_betas.back() > 0 && c.trained_betas.back() < 1))
      file.refuse("trained_betas", "a beta is not between 0 and 1");
  }
  if (!c.trained_betas.empty() && c.trained_betas.size() != static_cast<std::size_t>(c.timesteps))
    file.refuse("num_train_timesteps",
                fmt::format("trained_betas has {} entries", c.trained_betas.size()));
  if (c.trained_betas.empty() && c.beta_schedule != BetaSchedule::squaredcos_cap_v2) {
    c.beta_start = positive(file, "beta_start", 0.0001, 1);
    c.beta_end = positive(file, "beta_end", 0.02, 1);
    if (c.beta_start > c.beta_end) file.refuse("beta_start", "above beta_end");
  }
  c.zero_terminal_snr = file.boolean("rescale_betas_zero_snr", false);
  if (c.zero_terminal_snr && c.timesteps < 2)
    file.refuse("rescale_betas_zero_snr", "needs two timesteps");
  if (kind == SamplerKind::euler && file.text("prediction_type", "") == "original_sample")
    c.prediction = Prediction::sample;  // its older name there
  else
    c.prediction = one_of<Prediction>(file, "prediction_type", "epsilon",
                                      {{"epsilon", Prediction::epsilon},
                                       {"v_prediction", Prediction::v_prediction},
                                       {"sample", Prediction::sample}});
  return c;
}

void read_ddim(const ConfigReader& file, SamplerConfig& c) {
  file.require("thresholding", {"false"});
  c.set_alpha_to_one = file.boolean("set_alpha_to_one", true);
  c.clip_sample = file.boolean("clip_sample", true);
  c.clip_sample_range = static_cast<float>(positive(file, "clip_sample_range", 1, 1e30));
}

// Euler and DPM-Solver++ have these in common.
void read_sigmas(const ConfigReader& file, SamplerConfig& c) {
  const bool karras = file.boolean("use_karras_sigmas", false);
  const bool exponential = file.boolean("use_exponential_sigmas", false);
  file.require("use_beta_sigmas", {"false"});
  if (karras && exponential)
    file.refuse("use_exponential_sigmas", "use_karras_sigmas is true as well");
  if (karras) c.sigmas = Sigmas::karras;
  if (exponential) c.sigmas = Sigmas::exponential;
  c.ends_at_zero =
      one_of<bool>(file, "final_sigmas_type", "zero", {{"zero", true}, {"sigma_min", false}});
}

void read_euler(const ConfigReader& file, SamplerConfig& c) {
  const bool log_linear =
      one_of<bool>(file, "interpolation_type", "linear", {{"linear", false}, {"log_linear", true}});
  if (log_linear) c.sigmas = Sigmas::log_linear;
  read_sigmas(file, c);
  if (log_linear && c.sigmas != Sigmas::log_linear)
    file.refuse("interpolation_type", "use_karras_sigmas or use_exponential_sigmas is true");
  if (file.has("sigma_min")) c.sigma_min = positive(file, "sigma_min", 0, 1e30);
  if (file.has("sigma_max")) c.sigma_max = positive(file, "sigma_max", 0, 1e30);
  c.continuous_timesteps = one_of<bool>(file, "timestep_type", "discrete",
                                        {{"discrete", false}, {"continuous", true}}) &&
                           c.schedule.config().prediction == Prediction::v_prediction;
}

void read_dpm_solver(const ConfigReader& file, SamplerConfig& c) {
  file.require("thresholding", {"false"});
  file.require("algorithm_type",
               {R"("dpmsolver++")", R"("deis")"});  // deis means dpmsolver++ there
  file.require("use_flow_sigmas", {"false"});
  file.require("use_dynamic_shifting", {"false"});
  file.require("variance_type", {"null"});
  c.solver_order = static_cast<int>(file.integer("solver_order", 2, 1, 2));
  c.heun = one_of<bool>(
      file, "solver_type", "midpoint",
      {{"midpoint", false}, {"heun", true}, {"logrho", false}, {"bh1", false}, {"bh2", false}});
  c.lower_order_final = file.boolean("lower_order_final", true);
  c.euler_at_final = file.boolean("euler_at_final", false);
  read_sigmas(file, c);
  if (file.boolean("use_lu_lambdas", false)) {
    if (c.sigmas == Sigmas::exponential)
      file.refuse("use_lu_lambdas", "use_exponential_sigmas is true as well");
    if (c.sigmas == Sigmas::of_timesteps) c.sigmas = Sigmas::lu;  // karras goes first
  }
  if (c.sigmas == Sigmas::karras || c.sigmas == Sigmas::exponential) {
    file.require("sigma_min", {"null"});
    file.require("sigma_max", {"null"});
  }
  c.lambda_min_clipped = file.number("lambda_min_clipped", c.lambda_min_clipped);
}

std::string_view name_of(Spacing spacing) {
  switch (spacing) {
    case Spacing::leading:
      return "leading";
    case Spacing::trailing:
      return "trailing";
    case Spacing::linspace:
      return "linspace";
  }
  return "?";
}

}  // namespace

SamplerKind sampler_kind(std::string_view name) {
  for (const SamplerKind kind : {SamplerKind::ddim, SamplerKind::euler, SamplerKind::dpmpp_2m})
    if (name == name_of(kind)) return kind;
  fail(Exit::usage, "sampler \"{}\" is not known; there are: ddim, euler, dpmpp_2m", name);
}

std::string_view name_of(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::ddim:
      return "ddim";
    case SamplerKind::euler:
      return "euler";
    case SamplerKind::dpmpp_2m:
      return "dpmpp_2m";
  }
  return "?";
}

std::string read_scheduler_file(const std::string& path) {
  return read_file(config_file(path), max_bytes);
}

std::string scheduler_class(const std::string& text, const std::string& path) {
  return ConfigReader(with_finite_numbers(text), path).text("_class_name", "DDIMScheduler");
}

SamplerConfig SamplerConfig::from_json_file(const std::string& path, SamplerKind kind) {
  return from_json(read_scheduler_file(path), config_file(path), kind);
}

SamplerConfig SamplerConfig::from_json(const std::string& text, const std::string& path,
                                       SamplerKind kind) {
  const ConfigReader file(with_finite_numbers(text), path);
  SamplerConfig c;
  c.schedule = NoiseSchedule(read_schedule(file, kind));
  c.spacing =
      one_of<Spacing>(file, "timestep_spacing", kind == SamplerKind::ddim ? "leading" : "linspace",
                      {{"leading", Spacing::leading},
                       {"trailing", Spacing::trailing},
                       {"linspace", Spacing::linspace}});
  c.steps_offset = static_cast<int>(file.integer("steps_offset", 0, 0, c.schedule.timesteps() - 1));
  switch (kind) {
    case SamplerKind::ddim:
      read_ddim(file, c);
      break;
    case SamplerKind::euler:
      read_euler(file, c);
      break;
    case SamplerKind::dpmpp_2m:
      read_dpm_solver(file, c);
      break;
  }
  return c;
}

std::string SamplerConfig::to_json() const {
  const ScheduleConfig& s = schedule.config();
  nlohmann::ordered_json document{{"_class_name", "DDIMScheduler"},
                                  {"beta_start", s.beta_start},
                                  {"beta_end", s.beta_end},
                                  {"beta_schedule", name_of(s.beta_schedule)},
                                  {"num_train_timesteps", s.timesteps},
                                  {"prediction_type", name_of(s.prediction)},
                                  {"rescale_betas_zero_snr", s.zero_terminal_snr},
                                  {"timestep_spacing", name_of(spacing)},
                                  {"steps_offset", steps_offset},
                                  {"set_alpha_to_one", set_alpha_to_one},
                                  {"clip_sample", clip_sample},
                                  {"clip_sample_range", clip_sample_range}};
  document["trained_betas"] = nullptr;
  if (!s.trained_betas.empty()) document["trained_betas"] = s.trained_betas;
  return document.dump(2) + "\n";
}

}  // namespace strata
