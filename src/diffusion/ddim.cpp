#include "diffusion/ddim.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace strata {

namespace {

// Falling timesteps as diffusers spaces them (Lin et al. 2024, table 2). numpy rounds half to even,
// as std::nearbyint does.
std::vector<int> spaced_timesteps(const SamplerConfig& config, int steps) {
  const int train = config.schedule.timesteps();
  std::vector<int> timesteps(static_cast<std::size_t>(steps));
  for (int i = 0; i < steps; ++i) {
    double t = 0;
    switch (config.spacing) {
      case SamplerConfig::Spacing::leading:
        t = (steps - 1 - i) * (train / steps) + config.steps_offset;
        break;
      case SamplerConfig::Spacing::trailing:
        t = std::nearbyint(train - i * (static_cast<double>(train) / steps)) - 1;
        break;
      case SamplerConfig::Spacing::linspace:
        t = steps == 1
                ? 0.0
                : std::nearbyint((steps - 1 - i) * (static_cast<double>(train - 1) / (steps - 1)));
        break;
    }
    timesteps[i] = static_cast<int>(t);
  }
  return timesteps;
}

}  // namespace

Ddim::Ddim(const SamplerConfig& config, int steps) : config_(config) {
  const auto alphas = config.schedule.alphas_cumprod();
  const int train = config.schedule.timesteps();
  const float last_alpha = config.set_alpha_to_one ? 1.0f : alphas[0];
  for (const int t : spaced_timesteps(config, steps)) {
    if (t >= train)
      fail(Exit::usage, "steps_offset {} puts timestep {} of {} steps beyond {}",
           config.steps_offset, t, steps, train - 1);
    const int next = t - train / steps;
    timesteps_.push_back(static_cast<float>(t));
    alpha_.push_back(alphas[t]);
    next_alpha_.push_back(next >= 0 ? alphas[next] : last_alpha);
  }
}

void Ddim::step(int step, std::span<float> x, std::span<const float> model_output) {
  STRATA_CHECK(step >= 0 && step < steps() && x.size() == model_output.size());
  const float signal = std::sqrt(alpha_[step]), noise = std::sqrt(1.0f - alpha_[step]);
  const float next_signal = std::sqrt(next_alpha_[step]);
  const float next_noise = std::sqrt(1.0f - next_alpha_[step]);
  const bool is_v = config_.schedule.config().prediction == Prediction::v_prediction;
  const float limit = config_.clip_sample_range;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float output = model_output[i];
    float clean = is_v ? signal * x[i] - noise * output : (x[i] - noise * output) / signal;
    const float epsilon = is_v ? signal * output + noise * x[i] : output;
    if (config_.clip_sample) clean = std::clamp(clean, -limit, limit);
    x[i] = next_signal * clean + next_noise * epsilon;
  }
}

}  // namespace strata
