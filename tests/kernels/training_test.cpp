// Embeddings, noise, loss and optimizer.

#include <cstring>

#include "op_test.hpp"

namespace strata {
namespace {

class Training : public OpTest {};
STRATA_INSTANTIATE(Training);

TEST_P(Training, Embedding) {
  const Tensor table = random({11, 7}), y = blank({4, 7});
  const std::vector<std::int64_t> ids{3, 0, 10, 3};
  run({y}, [&](Exec& exec) { ops::embedding(exec, y, table, integers(ids)); });
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (std::int64_t c = 0; c < 7; ++c)
      EXPECT_EQ(values(y)[static_cast<std::int64_t>(i) * 7 + c], values(table)[ids[i] * 7 + c]);
  Exec exec(GetParam().device, 1);
  for (const std::int64_t bad : {std::int64_t{11}, std::int64_t{-1}}) try {
      ops::embedding(exec, y, table, integers({0, 1, 2, bad}));
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
    }
}

TEST_P(Training, TimestepEmbedding) {
  Array times({4});
  times.data = {0, 1, 500, 999};
  const Tensor t = upload(DType::f32, times);
  for (const bool flip : {true, false})
    for (const float shift : {0.0f, 1.0f}) {
      const Tensor y = blank({4, 40});
      run({y}, [&](Exec& exec) { ops::timestep_embedding(exec, y, t, flip, shift); });
      Array want({4, 40});
      for (std::int64_t b = 0; b < 4; ++b)
        for (std::int64_t i = 0; i < 20; ++i) {
          const double angle =
              times[b] * std::exp(-std::log(10000.0) * static_cast<double>(i) / (20 - shift));
          want[b * 40 + i] = flip ? std::cos(angle) : std::sin(angle);
          want[b * 40 + 20 + i] = flip ? std::sin(angle) : std::cos(angle);
        }
      // The frequency's exponent (up to 9.2) is rounded in f32 and the angle is up to 999: the sine
      // is off by up to 999 * 9.2 u in the worst entry, 8 sqrt(n) u allowed.
      expect_close("y", y, want, {type(), 999 * 9 * 999 * 9 / 64});
    }
}

TEST_P(Training, AddNoise) {
  const Shape shape{3, 4, 5, 4};
  const Tensor x = random(DType::f32, shape), noise = random(DType::f32, shape), y = blank(shape);
  const Tensor a = random(DType::f32, {3}), s = random(DType::f32, {3});
  run({y}, [&](Exec& exec) { ops::add_noise(exec, y, x, noise, a, s); });
  Array want(shape);
  for (std::int64_t i = 0; i < want.size(); ++i)
    want[i] = values(a)[i / 80] * values(x)[i] + values(s)[i / 80] * values(noise)[i];
  expect_close("y", y, want, {type(), 2});
}

TEST_P(Training, NormalsAreTheHostsBits) {
  for (const std::int64_t width : {4, 1021, 4 * 32 * 32}) {
    const Tensor out = blank(DType::f32, {3, width});
    const PhiloxCounter at[] = {{7, 0, Purpose::noise}, {1ull << 40, 3, Purpose::posterior}, {}};
    run({out}, [&](Exec& exec) { ops::normals(exec, out, {17}, at); });
    const Buffer want(DType::f32, {3, width});
    Exec host(host_device, 1);
    ops::normals(host, want, {17}, at);
    EXPECT_EQ(std::memcmp(out.data, want.tensor().data, out.bytes()), 0) << width;
  }
}

TEST_P(Training, DrawPosterior) {
  const Shape shape{3, 5, 7, 3};
  const std::int64_t width = 5 * 7 * 3;
  const Tensor moments = random(DType::f32, {3, 10, 7, 3}), noise = random(DType::f32, shape);
  const Tensor y = blank(DType::f32, shape);
  run({y}, [&](Exec& exec) { ops::draw_posterior(exec, y, moments, noise); });
  const Array from = values(moments), eps = values(noise);
  Array want(shape);
  for (std::int64_t i = 0; i < want.size(); ++i) {
    const std::int64_t mean = i / width * 2 * width + i % width;
    want[i] = from[mean] + from[mean + width] * eps[i];
  }
  expect_close("y", y, want, {DType::f32, 1});
}

TEST_P(Training, MseLoss) {
  const Shape shape{3, 16, 17, 5};
  const std::int64_t size = 16 * 17 * 5;
  const Tensor prediction = random(shape), target = random(DType::f32, shape);
  const Tensor weight = random(DType::f32, {3}), loss = blank(DType::f32, {3});
  const Tensor only = blank(DType::f32, {3}), gradient = blank(shape);
  run({loss, only, gradient}, [&](Exec& exec) {
    ops::mse_loss(exec, loss, gradient, prediction, target, weight, 0.25f);
    ops::mse_loss(exec, only, {}, prediction, target, {}, 1.0f);
  });
  Array want({3}), dwant(shape);
  for (std::int64_t i = 0; i < dwant.size(); ++i) {
    const double d = values(prediction)[i] - values(target)[i];
    want[i / size] += d * d / size;
    dwant[i] = values(weight)[i / size] * 2 * d * 0.25 / size;
  }
  expect_close("loss", loss, want, {DType::f32, size});
  EXPECT_EQ(values(loss).data, values(only).data);
  expect_close("dprediction", gradient, dwant, {type(), 2});
}

TEST_P(Training, AdamW) {
  const std::int64_t n = 40001;
  const Tensor master = random(DType::f32, {n}), m = random(DType::f32, {n}, 0.1);
  const Tensor grad = random(DType::f32, {n}), ema = random(DType::f32, {n}), param = blank({n});
  Array squares({n});
  for (std::int64_t i = 0; i < n; ++i) squares[i] = std::pow(values(grad)[i], 2) * 0.01;
  const Tensor v = upload(DType::f32, squares);
  const Array w0 = values(master), m0 = values(m), v0 = values(v), e0 = values(ema);
  const ops::AdamWParams p{.lr = 1e-3, .step = 7, .grad_scale = 0.5f};
  run({master, m, v, ema, param},
      [&](Exec& exec) { ops::adamw(exec, param, master, m, v, grad, ema, 0.99f, p); });
  Array w1({n}), m1({n}), v1({n}), e1({n});
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = values(grad)[i] * 0.5;
    m1[i] = 0.9 * m0[i] + 0.1 * g;
    v1[i] = 0.999 * v0[i] + 0.001 * g * g;
    const double mean = m1[i] / (1 - std::pow(0.9, 7));
    const double root = std::sqrt(v1[i] / (1 - std::pow(0.999, 7)));
    w1[i] = w0[i] * (1 - 1e-3 * 0.01) - 1e-3 * mean / (root + 1e-8);
    e1[i] = 0.99 * e0[i] + 0.01 * w1[i];
  }
  expect_close("m", m, m1, {DType::f32, 4});
  expect_close("v", v, v1, {DType::f32, 4});
  expect_close("master", master, w1, {DType::f32, 4});
  expect_close("ema", ema, e1, {DType::f32, 8});
  expect_close("param", param, values(master), {type()});
}

TEST_P(Training, GradientStats) {
  const Tensor grad = random(DType::f32, {50001});
  double want = 0;
  for (const double value : values(grad).data) want += value * value;
  for (const int threads : {1, 2}) {
    Exec exec(GetParam().device, threads);
    const auto whole = ops::gradient_stats(exec, grad, grad.numel());
    ASSERT_EQ(whole.size(), 1u);
    EXPECT_NEAR(whole[0].sum_of_squares, want, 1e-11 * want);
    EXPECT_EQ(whole[0].non_finite, 0);
    const auto parts = ops::gradient_stats(exec, grad, 20000);
    ASSERT_EQ(parts.size(), 3u);
    double sum = 0;
    for (const auto& part : parts) sum += part.sum_of_squares;
    EXPECT_NEAR(sum, want, 1e-11 * want);
    const auto last = ops::gradient_stats(exec, grad.rows(40000, 50001), 20000);
    EXPECT_EQ(parts[2].sum_of_squares, last[0].sum_of_squares);
  }
  grad.as<float>()[17] = NAN;
  grad.as<float>()[50000] = INFINITY;
  Exec exec(GetParam().device, 1);
  const auto bad = ops::gradient_stats(exec, grad, 25000);
  EXPECT_EQ(bad[0].non_finite + bad[1].non_finite + bad[2].non_finite, 2);
  EXPECT_EQ(bad[0].non_finite, 1);
}

}  // namespace
}  // namespace strata
