// Drawing latents from cached moments: a normal distribution, independent of everything else drawn.

#include "train/latents.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/ops.hpp"

namespace strata {
namespace {

constexpr PhiloxKey key{17};
constexpr std::int64_t batch_size = 4, channels = 4, side = 64;
constexpr std::int64_t size = channels * side * side;

/// Sample 10 + b has mean b and deviation b / 2 everywhere.
Batch moments() {
  Batch batch;
  batch.moments = true;
  batch.latents = Buffer(DType::f32, {batch_size, 2 * channels, side, side});
  for (std::int64_t b = 0; b < batch_size; ++b) {
    batch.samples.push_back(10 + b);
    for (std::int64_t i = 0; i < 2 * size; ++i)
      batch.latents.as<float>()[2 * b * size + i] = static_cast<float>(b) * (i < size ? 1 : 0.5f);
  }
  return batch;
}

std::vector<double> drawn(Exec& exec, PhiloxKey seed, std::uint32_t epoch, std::int64_t row) {
  const Batch batch = moments();
  const std::vector<std::uint32_t> epochs(batch_size, epoch);
  const Tensor latents = draw_latents(exec, seed, batch, epochs);
  EXPECT_EQ(latents.shape, (Shape{batch_size, channels, side, side}));
  const float* from = latents.as<float>() + row * size;
  return {from, from + size};
}

struct Sums {
  double mean, deviation;
};

Sums sums_of(const std::vector<double>& x) {
  double sum = 0, squares = 0;
  for (const double v : x) sum += v;
  const double mean = sum / static_cast<double>(x.size());
  for (const double v : x) squares += (v - mean) * (v - mean);
  return {mean, std::sqrt(squares / static_cast<double>(x.size()))};
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const Sums x = sums_of(a), y = sums_of(b);
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - x.mean) * (b[i] - y.mean);
  return sum / static_cast<double>(a.size()) / (x.deviation * y.deviation);
}

// Five standard errors of each estimate, which is a fixed number here: the draws are.
const double error = 5 / std::sqrt(static_cast<double>(size));

TEST(DrawLatents, HaveTheMomentsThatWereCached) {
  Exec exec;
  for (std::int64_t row = 1; row < batch_size; ++row)
    for (const std::uint32_t epoch : {0u, 1u, 35u}) {
      const Sums sums = sums_of(drawn(exec, key, epoch, row));
      const double deviation = static_cast<double>(row) / 2;
      EXPECT_NEAR(sums.mean, static_cast<double>(row), deviation * error);
      EXPECT_NEAR(sums.deviation, deviation, deviation * error / std::sqrt(2.0));
    }
}

TEST(DrawLatents, AreIndependentOfOtherEpochsSamplesSeedsAndTheDiffusionNoise) {
  Exec exec;
  const auto here = drawn(exec, key, 3, 2);
  EXPECT_EQ(here, drawn(exec, key, 3, 2));
  EXPECT_LT(std::abs(correlation(here, drawn(exec, key, 4, 2))), error);
  EXPECT_LT(std::abs(correlation(here, drawn(exec, key, 3, 1))), error);
  EXPECT_LT(std::abs(correlation(here, drawn(exec, {18}, 3, 2))), error);
  const Buffer noise(DType::f32, {1, size});
  const PhiloxCounter at{12, 3, Purpose::noise};
  ops::normals(exec, noise, key, &at);
  EXPECT_LT(std::abs(correlation(here, {noise.as<float>(), noise.as<float>() + size})), error);
}

TEST(DrawLatents, OfSamplesAreTheSamples) {
  Exec exec;
  Batch batch = moments();
  batch.moments = false;
  const std::vector<std::uint32_t> epochs(batch_size, 1);
  EXPECT_EQ(draw_latents(exec, key, batch, epochs).data, batch.latents.tensor().data);
}

}  // namespace
}  // namespace strata
