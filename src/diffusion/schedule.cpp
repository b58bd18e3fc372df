#include "diffusion/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

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

/// torch.cumprod accumulates f32 input in double and rounds each element.
std::vector<float> alphas_cumprod_of(std::span<const float> betas) {
  std::vector<float> products;
  double product = 1;
  for (const float beta : betas) {
    product *= static_cast<double>(1.0f - beta);
    products.push_back(static_cast<float>(product));
  }
  return products;
}

/// Nichol and Dhariwal 2021, Eq. 17: alpha_bar is a squared cosine, no beta above 0.999.
std::vector<float> cosine_betas(int steps) {
  const auto alpha_bar = [](double t) {
    const double root = std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2);
    return root * root;
  };
  std::vector<float> betas;
  for (int i = 0; i < steps; ++i)
    betas.push_back(static_cast<float>(std::min(
        1 - alpha_bar(static_cast<double>(i + 1) / steps) / alpha_bar(double(i) / steps), 0.999)));
  return betas;
}

/// Lin et al. 2024, algorithm 1: sqrt(alpha_bar) is shifted to end at 0 and scaled to begin where
/// it did.
std::vector<float> with_zero_terminal_snr(std::span<const float> betas) {
  std::vector<float> signal = alphas_cumprod_of(betas);
  for (float& s : signal) s = std::sqrt(s);
  const float first = signal.front(), last = signal.back();
  const float scale = first / (first - last);
  std::vector<float> rescaled;
  float before = 1;
  for (const float s : signal) {
    const float shifted = (s - last) * scale;
    const float alpha_bar = shifted * shifted;
    rescaled.push_back(1 - alpha_bar / before);
    before = alpha_bar;
  }
  return rescaled;
}

std::vector<float> scheduled_betas(const ScheduleConfig& c) {
  if (!c.trained_betas.empty()) return c.trained_betas;
  switch (c.beta_schedule) {
    case BetaSchedule::linear:
      return linspace(static_cast<float>(c.beta_start), static_cast<float>(c.beta_end),
                      c.timesteps);
    case BetaSchedule::squaredcos_cap_v2:
      return cosine_betas(c.timesteps);
    case BetaSchedule::scaled_linear:
      break;
  }
  auto betas = linspace(static_cast<float>(std::sqrt(c.beta_start)),
                        static_cast<float>(std::sqrt(c.beta_end)), c.timesteps);
  for (float& b : betas) b *= b;
  return betas;
}

}  // namespace

std::string_view name_of(BetaSchedule schedule) {
  switch (schedule) {
    case BetaSchedule::scaled_linear:
      return "scaled_linear";
    case BetaSchedule::linear:
      return "linear";
    case BetaSchedule::squaredcos_cap_v2:
      return "squaredcos_cap_v2";
  }
  return "?";
}

std::string_view name_of(Prediction prediction) {
  switch (prediction) {
    case Prediction::epsilon:
      return "epsilon";
    case Prediction::v_prediction:
      return "v_prediction";
    case Prediction::sample:
      return "sample";
  }
  return "?";
}

NoiseSchedule::NoiseSchedule(const ScheduleConfig& config) : config_(config) {
  STRATA_CHECK(config.timesteps >= 1 && config.beta_start > 0 && config.beta_end < 1 &&
               config.beta_start <= config.beta_end);
  betas_ = scheduled_betas(config);
  STRATA_CHECK(static_cast<int>(betas_.size()) == config.timesteps);
  if (config.zero_terminal_snr) betas_ = with_zero_terminal_snr(betas_);
  alphas_cumprod_ = alphas_cumprod_of(betas_);
  for (const float alpha_bar : alphas_cumprod_) {
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
  const double ratio = snr(t), bounded = std::min(ratio, gamma);
  switch (config_.prediction) {
    case Prediction::epsilon:
      return static_cast<float>(bounded / ratio);
    case Prediction::v_prediction:
      return static_cast<float>(bounded / (ratio + 1));
    case Prediction::sample:
      break;
  }
  return static_cast<float>(bounded);
}

float NoiseSchedule::target_noise(int t) const {
  switch (config_.prediction) {
    case Prediction::epsilon:
      return 1.0f;
    case Prediction::v_prediction:
      return signal(t);
    case Prediction::sample:
      break;
  }
  return 0.0f;
}

float NoiseSchedule::target_signal(int t) const {
  switch (config_.prediction) {
    case Prediction::epsilon:
      return 0.0f;
    case Prediction::v_prediction:
      return -noise(t);
    case Prediction::sample:
      break;
  }
  return 1.0f;
}

}  // namespace strata
