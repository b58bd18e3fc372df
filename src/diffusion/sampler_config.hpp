#pragma once
// `scheduler_config.json` as diffusers' schedulers read it: which timesteps, which noise levels,
// which solver. What would be computed otherwise than there is refused by key and value.

#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "diffusion/schedule.hpp"

namespace strata {

/// DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler (dpmsolver++).
enum class SamplerKind { ddim, euler, dpmpp_2m };

/// "ddim", "euler" or "dpmpp_2m"; anything else is Error(64).
SamplerKind sampler_kind(std::string_view name);
std::string_view name_of(SamplerKind kind);

/// The defaults are our recipe: leading timesteps, offset 0, set_alpha_to_one false, as training's
/// schedule has it.
struct SamplerConfig {
  enum class Spacing { leading, trailing, linspace };
  /// Where a sampler's noise levels lie between the largest and the smallest.
  enum class Sigmas { of_timesteps, log_linear, karras, exponential, lu };

  NoiseSchedule schedule;
  Spacing spacing = Spacing::leading;
  int steps_offset = 0;

  // DDIM
  bool set_alpha_to_one = false;
  bool clip_sample = false;
  float clip_sample_range = 1.0f;

  // Euler and DPM-Solver++
  Sigmas sigmas = Sigmas::of_timesteps;
  bool ends_at_zero = true;  // final_sigmas_type "zero"; false: "sigma_min"

  // Euler
  std::optional<double> sigma_min, sigma_max;  // ends of karras and exponential
  bool continuous_timesteps = false;           // log(sigma) / 4 in the place of a timestep

  // DPM-Solver++
  int solver_order = 2;  // 1 or 2
  bool heun = false;     // solver_type: midpoint or heun
  bool lower_order_final = true, euler_at_final = false;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();

  /// `path`: a scheduler_config.json, its folder, or the pipeline folder that holds `scheduler/`. A
  /// missing key has the diffusers default of the sampler `kind`. Error(65) naming file and key for
  /// what is wrong or not supported.
  static SamplerConfig from_json_file(const std::string& path, SamplerKind kind);
  /// The same for the text of such a file, kept somewhere in `path`.
  static SamplerConfig from_json(const std::string& text, const std::string& path,
                                 SamplerKind kind);
  /// The config as diffusers' DDIMScheduler writes it, for an exported pipeline.
  std::string to_json() const;
};

/// The text of a scheduler_config.json, found as `from_json_file` finds it.
std::string read_scheduler_file(const std::string& path);
/// The diffusers class that a scheduler_config.json names, DDIMScheduler where it names none.
/// Error(65) naming `path`.
std::string scheduler_class(const std::string& text, const std::string& path);

}  // namespace strata
