// Each block's backward against central differences of its forward, f32.
//
// L = <dy, forward(x)> for a fixed dy, probed along random directions of the inputs and of all
// parameters at once. With step h the difference quotient is off by O(h^2) and by rounding
// ~ 1e-7 |L| / h; h = 1e-2 leaves both near 1e-4 of a directional derivative of order one.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "model/resblock.hpp"
#include "model/transformer.hpp"
#include "model/weights.hpp"

namespace strata::test {
namespace {

constexpr double step = 1e-2, tolerance = 5e-3;

Buffer random(Shape shape, unsigned seed, float mean = 0) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, 1.0f);
  Buffer buffer(DType::f32, shape);
  for (std::int64_t i = 0; i < shape.numel(); ++i) buffer.as<float>()[i] = normal(engine);
  return buffer;
}

double dot(Tensor a, Tensor b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    sum += static_cast<double>(a.as<float>()[i]) * b.as<float>()[i];
  return sum;
}

/// The change of `loss` along `direction` at `values`, per unit.
double difference_quotient(Exec& exec, Tensor values, Tensor direction,
                           const std::function<double()>& loss) {
  const auto at = [&](double factor) {
    Buffer original(DType::f32, values.shape);
    memory::copy(original.tensor().data, host_device, values.data, host_device, values.bytes());
    for (std::int64_t i = 0; i < values.numel(); ++i)
      values.as<float>()[i] += static_cast<float>(factor) * direction.as<float>()[i];
    exec.weights_changed();
    const double result = loss();
    memory::copy(values.data, host_device, original.tensor().data, host_device, values.bytes());
    exec.weights_changed();
    return result;
  };
  return (at(step) - at(-step)) / (2 * step);
}

/// A direction scaled so that no parameter moves by much more than `step` times its own size.
Buffer direction_like(Tensor values, unsigned seed) {
  Buffer direction = random(values.shape, seed);
  const double scale = std::sqrt(dot(values, values) / static_cast<double>(values.numel()));
  for (std::int64_t i = 0; i < values.numel(); ++i)
    direction.as<float>()[i] *= static_cast<float>(0.3 * scale);
  return direction;
}

void expect_derivative(double difference, double analytic) {
  EXPECT_NEAR(difference, analytic, tolerance * std::max(std::abs(analytic), 1.0));
}

TEST(BlockGradient, ResBlockWithShortcutAndTime) {
  ParameterTable table;
  const ResBlock block(table, "b", {.in = 6, .out = 8, .time_dim = 5, .groups = 2, .eps = 1e-5f});
  Buffer flat = random({table.numel()}, 1);
  initialize(table, flat, 5);
  const Weights weights(table, flat);
  const Buffer x = random({2, 5, 3, 6}, 2), time = random({2, 5}, 3), dy = random({2, 5, 3, 8}, 4);
  Exec exec;
  const auto loss = [&] {
    const ArenaScope scope(exec.arena);
    return dot(block.forward(exec, weights, x, time, nullptr), dy);
  };
  ResBlock::Saved saved;
  block.forward(exec, weights, x, time, &saved);
  DenseGradients gradients(table);
  Buffer dx(DType::f32, {2, 5, 3, 6}), dtime = Buffer::zeros(DType::f32, {2, 5});
  block.backward(exec, weights, gradients, saved, dx, dtime, dy);

  const Buffer u = direction_like(x, 5), v = direction_like(time, 6), w = direction_like(flat, 7);
  expect_derivative(difference_quotient(exec, x, u, loss), dot(dx, u));
  expect_derivative(difference_quotient(exec, time, v, loss), dot(dtime, v));
  expect_derivative(difference_quotient(exec, flat, w, loss), dot(gradients.flat(), w));
}

TEST(BlockGradient, SpatialTransformerWithAnEmptyCaption) {
  ParameterTable table;
  const SpatialTransformer block(table, "t",
                                 {.channels = 8,
                                  .heads = 2,
                                  .context = 5,
                                  .layers = 2,
                                  .groups = 4,
                                  .linear_projection = false});
  Buffer flat(DType::f32, {table.numel()});
  initialize(table, flat, 6);
  const Weights weights(table, flat);
  const Buffer x = random({3, 3, 4, 8}, 12), tokens = random({6, 5}, 13),
               dy = random({3, 3, 4, 8}, 14);
  std::vector<std::int64_t> offsets{0, 4, 4, 6};
  const Ragged text{tokens, view_of(offsets.data(), {4})};
  Exec exec;
  const auto loss = [&] {
    const ArenaScope scope(exec.arena);
    return dot(block.forward(exec, weights, x, text, nullptr), dy);
  };
  SpatialTransformer::Saved saved;
  block.forward(exec, weights, x, text, &saved);
  DenseGradients gradients(table);
  Buffer dx(DType::f32, {3, 3, 4, 8}), dtext = Buffer::zeros(DType::f32, {6, 5});
  block.backward(exec, weights, gradients, saved, dx, dtext, dy);

  const Buffer u = direction_like(x, 15), v = direction_like(tokens, 16),
               w = direction_like(flat, 17);
  expect_derivative(difference_quotient(exec, x, u, loss), dot(dx, u));
  expect_derivative(difference_quotient(exec, tokens, v, loss), dot(dtext, v));
  expect_derivative(difference_quotient(exec, flat, w, loss), dot(gradients.flat(), w));
}

}  // namespace
}  // namespace strata::test
