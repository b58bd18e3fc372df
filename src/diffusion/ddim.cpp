#include "diffusion/ddim.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "diffusion/timesteps.hpp"

namespace strata {

Ddim::Ddim(const SamplerConfig& config, int steps) : config_(config) {
  const auto alphas = config.schedule.alphas_cumprod();
  const int train = config.schedule.timesteps();
  const float last_alpha = config.set_alpha_to_one ? 1.0f : alphas[0];
  const bool is_epsilon = config.schedule.config().prediction == Prediction::epsilon;
  for (const double spaced :
       spaced_timesteps(config, {.steps = steps, .points = steps, .last = train, .whole = true})) {
    const int t = static_cast<int>(spaced);
    if (t >= train)
      fail(Exit::usage, "steps_offset {} puts timestep {} of {} steps beyond {}",
           config.steps_offset, t, steps, train - 1);
    if (is_epsilon && alphas[t] == 0)
      fail(Exit::usage,
           "timestep {} of {} steps has no signal (rescale_betas_zero_snr), and the model predicts "
           "epsilon: its picture is 0 / 0",
           t, steps);
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
  const Prediction prediction = config_.schedule.config().prediction;
  const float limit = config_.clip_sample_range;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float output = model_output[i];
    float clean = output, epsilon = output;
    switch (prediction) {
      case Prediction::epsilon:
        clean = (x[i] - noise * output) / signal;
        break;
      case Prediction::v_prediction:
        clean = signal * x[i] - noise * output;
        epsilon = signal * output + noise * x[i];
        break;
      case Prediction::sample:
        epsilon = (x[i] - signal * output) / noise;
        break;
    }
    if (config_.clip_sample) clean = std::clamp(clean, -limit, limit);
    x[i] = next_signal * clean + next_noise * epsilon;
  }
}

}  // namespace strata
