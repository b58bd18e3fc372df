#include "diffusion/euler.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "diffusion/timesteps.hpp"

namespace strata {

namespace {

/// (steps) or, with log_linear, (steps + 1): the levels that the timesteps or the config ask for.
std::vector<double> levels_of(const SamplerConfig& config, const SigmaTable& table,
                              const std::vector<double>& timesteps) {
  const int steps = static_cast<int>(timesteps.size());
  if (config.sigmas == SamplerConfig::Sigmas::log_linear)
    return exponential_sigmas(table.largest(), table.smallest(), steps + 1);
  std::vector<double> levels;
  for (const double t : timesteps) levels.push_back(table.at(static_cast<float>(t)));
  const double largest = config.sigma_max.value_or(levels.front());
  const double smallest = config.sigma_min.value_or(levels.back());
  if (config.sigmas == SamplerConfig::Sigmas::karras)
    return karras_sigmas(largest, smallest, steps);
  if (config.sigmas == SamplerConfig::Sigmas::exponential)
    return exponential_sigmas(largest, smallest, steps);
  return levels;
}

}  // namespace

Euler::Euler(const SamplerConfig& config, int steps)
    : prediction_(config.schedule.config().prediction) {
  const SigmaTable table(config.schedule);
  auto timesteps = spaced_timesteps(
      config, {.steps = steps, .points = steps, .last = config.schedule.timesteps()});
  auto levels = levels_of(config, table, timesteps);
  const bool by_sigma = config.sigmas == SamplerConfig::Sigmas::karras ||
                        config.sigmas == SamplerConfig::Sigmas::exponential;
  if (by_sigma)
    std::ranges::transform(levels, timesteps.begin(),
                           [&](double sigma) { return table.timestep_of(sigma); });
  levels.push_back(config.ends_at_zero ? 0.0 : table.smallest());
  levels.resize(static_cast<std::size_t>(steps) + 1);  // log_linear ends above 0
  sigmas_.assign(levels.begin(), levels.end());
  timesteps_.assign(timesteps.begin(), timesteps.end());
  if (config.continuous_timesteps)
    for (int i = 0; i < steps; ++i) timesteps_[i] = 0.25f * std::log(sigmas_[i]);

  const float largest = *std::ranges::max_element(sigmas_);
  const bool is_leading = config.spacing == SamplerConfig::Spacing::leading;
  initial_sigma_ = is_leading ? std::sqrt(largest * largest + 1) : largest;
}

void Euler::scale_input(int step, std::span<float> y, std::span<const float> x) const {
  const float norm = std::sqrt(sigmas_[step] * sigmas_[step] + 1);
  std::ranges::transform(x, y.begin(), [norm](float value) { return value / norm; });
}

void Euler::step(int step, std::span<float> x, std::span<const float> model_output) {
  STRATA_CHECK(step >= 0 && step < steps() && x.size() == model_output.size());
  const float sigma = sigmas_[step], change = sigmas_[step + 1] - sigma;
  const float square = sigma * sigma + 1;
  const float v_share = -sigma / std::sqrt(square);
  for (std::size_t i = 0; i < x.size(); ++i) {
    float clean = model_output[i];
    if (prediction_ == Prediction::epsilon)
      clean = x[i] - sigma * model_output[i];
    else if (prediction_ == Prediction::v_prediction)
      clean = model_output[i] * v_share + x[i] / square;
    x[i] += (x[i] - clean) / sigma * change;
  }
}

}  // namespace strata
