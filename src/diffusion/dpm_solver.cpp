#include "diffusion/dpm_solver.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"
#include "diffusion/timesteps.hpp"

namespace strata {

namespace {

constexpr int few_steps = 15;  // fewer than these end with a step of first order

/// One above the highest timestep whose lambda is not below the config's bound.
int last_timestep(const SamplerConfig& config, const SigmaTable& table) {
  int last = config.schedule.timesteps();
  while (last > 0 && -std::log(table.at(last - 1)) < config.lambda_min_clipped) --last;
  if (last == 0)
    fail(Exit::usage, "lambda_min_clipped {}: no timestep is left", config.lambda_min_clipped);
  return last;
}

std::vector<double> spaced(const SamplerConfig& config, const SigmaTable& table, int steps) {
  const int last = last_timestep(config, table), train = config.schedule.timesteps();
  const bool is_trailing = config.spacing == SamplerConfig::Spacing::trailing;
  if (is_trailing && std::ceil(last / (static_cast<double>(train) / steps)) < steps)
    fail(Exit::usage, "lambda_min_clipped {} leaves fewer than {} trailing steps",
         config.lambda_min_clipped, steps);
  return spaced_timesteps(config,
                          {.steps = steps, .points = steps + 1, .last = last, .whole = true});
}

/// The (steps) levels, and the timesteps that belong to them.
std::vector<double> levels_of(const SamplerConfig& config, const SigmaTable& table,
                              std::vector<double>& timesteps) {
  using Sigmas = SamplerConfig::Sigmas;
  const int steps = static_cast<int>(timesteps.size());
  std::vector<double> levels;
  if (config.sigmas == Sigmas::of_timesteps) {
    for (const double t : timesteps) levels.push_back(table.at(t));
    return levels;
  }
  const bool karras = config.sigmas == Sigmas::karras;
  levels = karras ? karras_sigmas(table.largest(), table.smallest(), steps)
                  : exponential_sigmas(table.largest(), table.smallest(), steps);
  // The model is told whole timesteps: rounded to, or (exponential, and cosine schedules) cut to.
  const bool rounds = config.sigmas != Sigmas::exponential &&
                      config.schedule.config().beta_schedule != BetaSchedule::squaredcos_cap_v2;
  std::ranges::transform(levels, timesteps.begin(), [&](double sigma) {
    const double t = table.timestep_of(sigma);
    return rounds ? std::nearbyint(t) : std::trunc(t);
  });
  return levels;
}

}  // namespace

DpmSolver::DpmSolver(const SamplerConfig& config, int steps)
    : prediction_(config.schedule.config().prediction),
      order_(config.solver_order),
      heun_(config.heun),
      lower_order_final_(config.lower_order_final),
      first_order_final_(config.euler_at_final || config.ends_at_zero) {
  const SigmaTable table(config.schedule);
  auto timesteps = spaced(config, table, steps);
  auto sigmas = levels_of(config, table, timesteps);
  sigmas.push_back(config.ends_at_zero ? 0.0 : table.smallest());
  timesteps_.assign(timesteps.begin(), timesteps.end());
  for (const double level : sigmas) {
    const auto sigma = static_cast<float>(level);
    const float signal = 1.0f / std::sqrt(sigma * sigma + 1.0f), noise = sigma * signal;
    levels_.push_back({signal, noise, std::log(signal) - std::log(noise)});
  }
  for (int i = 1; i < steps; ++i)
    if (!is_first_order(i) && levels_[i].lambda == levels_[i - 1].lambda)
      fail(Exit::usage, "steps: {} are too many for timestep_spacing: timestep {} comes twice",
           steps, timesteps_[i]);
}

bool DpmSolver::is_first_order(int step) const {
  if (order_ == 1 || step == 0) return true;
  const bool eases_out = first_order_final_ || (lower_order_final_ && steps() < few_steps);
  return step + 1 == steps() && eases_out;
}

DpmSolver::Update DpmSolver::update_of(int step) const {
  const Level &from = levels_[step], &to = levels_[step + 1];
  const float h = to.lambda - from.lambda;
  const float decay = std::exp(-h) - 1.0f;
  Update update{to.noise / from.noise, -(to.signal * decay), 0};
  if (is_first_order(step)) return update;
  const float before = from.lambda - levels_[step - 1].lambda;
  const float slope = heun_ ? to.signal * (decay / h + 1.0f) : -0.5f * (to.signal * decay);
  update.slope = slope / (before / h);
  return update;
}

void DpmSolver::step(int step, std::span<float> x, std::span<const float> model_output) {
  STRATA_CHECK(step >= 0 && step < steps() && x.size() == model_output.size());
  const Level& at = levels_[step];
  const Update update = update_of(step);
  if (step == 0) previous_.assign(x.size(), 0.0f);
  for (std::size_t i = 0; i < x.size(); ++i) {
    float clean = model_output[i];
    if (prediction_ == Prediction::epsilon)
      clean = (x[i] - at.noise * model_output[i]) / at.signal;
    else if (prediction_ == Prediction::v_prediction)
      clean = at.signal * x[i] - at.noise * model_output[i];
    x[i] = update.keep * x[i] + update.clean * clean + update.slope * (clean - previous_[i]);
    previous_[i] = clean;
  }
}

}  // namespace strata
