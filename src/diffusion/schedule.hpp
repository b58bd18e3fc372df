#pragma once
// The noise schedule of DDPM training (Ho et al. 2020): how much signal and noise a timestep has,
// in fp32 exactly as diffusers computes it.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace strata {

enum class BetaSchedule { scaled_linear, linear, squaredcos_cap_v2 };
enum class Prediction { epsilon, v_prediction, sample };

std::string_view name_of(BetaSchedule schedule);
std::string_view name_of(Prediction prediction);

/// The defaults are the recipe's (SD2's).
struct ScheduleConfig {
  int timesteps = 1000;
  BetaSchedule beta_schedule = BetaSchedule::scaled_linear;
  double beta_start = 0.00085, beta_end = 0.012;  // not used by squaredcos_cap_v2
  std::vector<float> trained_betas{};             // (timesteps) in the place of a schedule, or none
  bool zero_terminal_snr = false;                 // Lin et al. 2024, algorithm 1
  Prediction prediction = Prediction::epsilon;
};

class NoiseSchedule {
 public:
  explicit NoiseSchedule(const ScheduleConfig& config = {});

  const ScheduleConfig& config() const { return config_; }
  int timesteps() const { return config_.timesteps; }
  std::span<const float> betas() const { return betas_; }
  std::span<const float> alphas_cumprod() const { return alphas_cumprod_; }

  /// x_t = signal(t) x_0 + noise(t) eps.
  float signal(int t) const { return signal_.at(t); }
  float noise(int t) const { return noise_.at(t); }
  /// Signal-to-noise ratio alpha_bar / (1 - alpha_bar).
  double snr(int t) const;
  /// Weight of the squared error at t (Hang et al. 2023, Eq. 8): min(snr, gamma), divided by snr
  /// for epsilon and by snr + 1 for v. gamma = 0: 1 everywhere.
  float min_snr_weight(int t, double gamma) const;
  /// What the network is asked for: target = target_noise(t) eps + target_signal(t) x_0.
  float target_noise(int t) const;
  float target_signal(int t) const;

 private:
  ScheduleConfig config_;
  std::vector<float> betas_, alphas_cumprod_, signal_, noise_;
};

}  // namespace strata
