#include "diffusion/guidance.hpp"

#include <cmath>

#include "core/error.hpp"

namespace strata {

namespace {

double standard_deviation(std::span<const float> values) {
  double mean = 0, squares = 0;
  for (const float value : values) mean += value;
  mean /= static_cast<double>(values.size());
  for (const float value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

}  // namespace

void guide(std::span<float> prediction, std::span<const float> unconditional,
           std::span<const float> conditional, Guidance guidance, int count) {
  STRATA_CHECK(prediction.size() == unconditional.size() &&
               prediction.size() == conditional.size() && prediction.size() % count == 0);
  for (std::size_t i = 0; i < prediction.size(); ++i)
    prediction[i] = unconditional[i] + guidance.scale * (conditional[i] - unconditional[i]);
  if (guidance.rescale == 0.0f) return;
  const std::size_t n = prediction.size() / count;
  for (int picture = 0; picture < count; ++picture) {
    const auto guided = prediction.subspan(picture * n, n);
    const double ratio =
        standard_deviation(conditional.subspan(picture * n, n)) / standard_deviation(guided);
    const auto factor = static_cast<float>(guidance.rescale * ratio + 1 - guidance.rescale);
    for (float& value : guided) value *= factor;
  }
}

}  // namespace strata
