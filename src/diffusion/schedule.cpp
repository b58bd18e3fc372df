#include "diffusion/schedule.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace strata {

namespace {

/// torch.linspace in f32: counted from the nearer end, so that both ends are exact.
std::vector<float> linspace(float start, float end, int steps) {
  std::vector<float> values(steps, start);
  if (steps == 1) return values;
  const float step = (end - start) / static_cast<float>(steps - 1);
  for (int i = 0; i < steps; ++i)
    values[i] = i < steps / 2 ? std::fma(step, static_cast<float>(i), start)
                              : std::fma(-step, static_cast<float>(steps - 1 - i), end);
  return values;
}

std::vector<float> make_betas(const ScheduleConfig& c) {
  if (c.beta_schedule == BetaSchedule::linear)
    return linspace(static_cast<float>(c.beta_start), static_cast<float>(c.beta_end), c.timesteps);
  auto betas = linspace(static_cast<float>(std::sqrt(c.beta_start)),
                        static_cast<float>(std::sqrt(c.beta_end)), c.timesteps);
  for (float& b : betas) b *= b;
  return betas;
}

}  // namespace

NoiseSchedule::NoiseSchedule(const ScheduleConfig& config) : config_(config) {
  STRATA_CHECK(config.timesteps >= 1 && config.beta_start > 0 && config.beta_end < 1 &&
               config.beta_start <= config.beta_end);
  betas_ = make_betas(config);
  double product = 1;  // torch.cumprod accumulates f32 input in double and rounds each element
  for (const float beta : betas_) {
    product *= static_cast<double>(1.0f - beta);
    const auto alpha_bar = static_cast<float>(product);
    alphas_cumprod_.push_back(alpha_bar);
    signal_.push_back(std::sqrt(alpha_bar));
    noise_.push_back(std::sqrt(1.0f - alpha_bar));
  }
}

double NoiseSchedule::snr(int t) const {
  const double alpha_bar = alphas_cumprod_.at(t);
  return alpha_bar / (1 - alpha_bar);
}

float NoiseSchedule::min_snr_weight(int t, double gamma) const {
  if (gamma == 0) return 1;
  const double ratio = snr(t);
  const double divisor = config_.prediction == Prediction::epsilon ? ratio : ratio + 1;
  return static_cast<float>(std::min(ratio, gamma) / divisor);
}

float NoiseSchedule::target_noise(int t) const {
  return config_.prediction == Prediction::epsilon ? 1.0f : signal(t);
}

float NoiseSchedule::target_signal(int t) const {
  return config_.prediction == Prediction::epsilon ? 0.0f : -noise(t);
}

}  // namespace strata
