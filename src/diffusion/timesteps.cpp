#include "diffusion/timesteps.hpp"

#include <algorithm>
#include <cmath>

namespace strata {

namespace {

// Without terminal signal the last sigma would be infinite; diffusers takes this alpha_bar instead.
constexpr float smallest_alpha_bar = 0x1p-24f;

// Falling from `first` to `last` in `steps` values, both ends included.
template <class Of>
std::vector<double> ramp(double first, double last, int steps, Of of) {
  std::vector<double> values;
  for (int i = 0; i < steps; ++i)
    values.push_back(of(first + (steps == 1 ? 0.0 : i * (1.0 / (steps - 1))) * (last - first)));
  return values;
}

}  // namespace

std::vector<double> spaced_timesteps(const SamplerConfig& config, const SpacingOptions& o) {
  const int train = config.schedule.timesteps();
  // numpy's arange counts in the difference of its first two values, not in the step asked for.
  const double ratio = static_cast<double>(train) / o.steps;
  const double trailing_step = (o.last - ratio) - o.last;
  const int leading_step = o.last / o.points;
  std::vector<double> timesteps;
  for (int i = 0; i < o.steps; ++i) {
    const int from_end = o.points - 1 - i;
    double t = 0;
    switch (config.spacing) {
      case SamplerConfig::Spacing::leading:
        t = static_cast<double>(from_end) * leading_step + config.steps_offset;
        break;
      case SamplerConfig::Spacing::trailing:
        t = std::nearbyint(o.last + i * trailing_step) - 1;
        break;
      case SamplerConfig::Spacing::linspace:
        if (o.points > 1)
          t = i == 0 ? o.last - 1 : from_end * (static_cast<double>(o.last - 1) / (o.points - 1));
        if (o.whole) t = std::nearbyint(t);
        break;
    }
    timesteps.push_back(t);
  }
  return timesteps;
}

SigmaTable::SigmaTable(const NoiseSchedule& schedule) {
  const auto alphas = schedule.alphas_cumprod();
  for (std::size_t t = 0; t < alphas.size(); ++t) {
    const bool is_terminal = t + 1 == alphas.size() && schedule.config().zero_terminal_snr;
    const float alpha_bar = is_terminal ? smallest_alpha_bar : alphas[t];
    sigmas_.push_back(std::sqrt((1.0f - alpha_bar) / alpha_bar));
    logs_.push_back(std::log(sigmas_.back()));
  }
}

double SigmaTable::at(double timestep) const {
  const double last = static_cast<double>(sigmas_.size()) - 1;
  if (timestep <= 0) return smallest();
  if (timestep >= last) return largest();
  const auto below = static_cast<std::size_t>(timestep);
  const double from = sigmas_[below], to = sigmas_[below + 1];
  return (to - from) * (timestep - static_cast<double>(below)) + from;
}

double SigmaTable::timestep_of(double sigma) const {
  if (logs_.size() < 2) return 0;
  const double wanted = std::log(std::max(sigma, 1e-10));
  const auto above = std::upper_bound(logs_.begin(), logs_.end(), wanted) - logs_.begin();
  const auto low =
      std::clamp<std::ptrdiff_t>(above - 1, 0, static_cast<std::ptrdiff_t>(logs_.size()) - 2);
  const float step = logs_[low] - logs_[low + 1];
  const double share = std::clamp((logs_[low] - wanted) / step, 0.0, 1.0);
  return (1 - share) * static_cast<double>(low) + share * static_cast<double>(low + 1);
}

std::vector<double> karras_sigmas(double largest, double smallest, int steps) {
  constexpr double rho = 7;
  return ramp(std::pow(largest, 1 / rho), std::pow(smallest, 1 / rho), steps,
              [](double root) { return std::pow(root, rho); });
}

std::vector<double> exponential_sigmas(double largest, double smallest, int steps) {
  return ramp(std::log(largest), std::log(smallest), steps,
              [](double logarithm) { return std::exp(logarithm); });
}

}  // namespace strata
