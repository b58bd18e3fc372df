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
  const Tensor z = blank({4, 7}), there = visible(counts(ids));
  run({y, z}, [&](Exec& exec) {
    ops::embedding(exec, y, table, integers(ids));
    ops::embedding(exec, z, table, there);
  });
  EXPECT_EQ(values(y).data, values(z).data) << "ids on the device";
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
  const Tensor decision = visible(ops::decision_of({.adamw = p, .ema_decay = 0.99f}));
  run({master, m, v, ema, param},
      [&](Exec& exec) { ops::adamw(exec, param, master, m, v, grad, ema, decision); });
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
  struct Stats {
    std::vector<double> squares;
    double non_finite;
  };
  const auto stats_of = [&](Exec& exec, Tensor of, std::int64_t section) {
    const Tensor squares = allocate(DType::f64, {(of.numel() + section - 1) / section});
    const Tensor non_finite = allocate(DType::f64, {1});
    *non_finite.as<double>() = 0;
    ops::gradient_stats(exec, squares, non_finite, of, section);
    exec.synchronize();
    return Stats{{squares.as<double>(), squares.as<double>() + squares.numel()},
                 *non_finite.as<double>()};
  };
  for (const int threads : {1, 2}) {
    Exec exec(GetParam().device, threads);
    const Stats whole = stats_of(exec, grad, grad.numel());
    ASSERT_EQ(whole.squares.size(), 1u);
    EXPECT_NEAR(whole.squares[0], want, 1e-11 * want);
    EXPECT_EQ(whole.non_finite, 0);
    const Stats parts = stats_of(exec, grad, 20000);
    ASSERT_EQ(parts.squares.size(), 3u);
    EXPECT_NEAR(parts.squares[0] + parts.squares[1] + parts.squares[2], want, 1e-11 * want);
    const Stats last = stats_of(exec, grad.rows(40000, 50001), 20000);
    EXPECT_EQ(parts.squares[2], last.squares[0]);
  }
  grad.as<float>()[17] = NAN;
  grad.as<float>()[50000] = INFINITY;
  Exec exec(GetParam().device, 1);
  EXPECT_EQ(stats_of(exec, grad, 25000).non_finite, 2);
  EXPECT_EQ(stats_of(exec, grad.rows(0, 25000), 25000).non_finite, 1);
}

/// What decide_update makes of a gradient with sums of squares 9 and 16.
class Decision : public OpTest {
 protected:
  ops::UpdateOutcome decide(std::int64_t updates, double bad, float clip = 0) {
    decision_ = visible(ops::decision_of({.adamw = {.lr = 0, .step = updates}}));
    std::vector<ops::UpdateParams> candidates;
    for (const std::int64_t step : {8, 9})
      candidates.push_back({.adamw = {.lr = 1e-3, .step = step, .grad_scale = 0.5f},
                            .ema_decay = static_cast<float>(step),
                            .clip_norm = clip});
    const Tensor from = allocate(DType::u8, {ops::candidates_bytes});
    const Buffer on_host(DType::u8, {ops::candidates_bytes});
    ops::write_candidates(on_host, candidates);
    std::memcpy(from.data, on_host.tensor().data, from.bytes());
    const Tensor squares = allocate(DType::f64, {2}), non_finite = allocate(DType::f64, {1});
    squares.as<double>()[0] = 9;
    squares.as<double>()[1] = 16;
    *non_finite.as<double>() = bad;
    Exec exec(GetParam().device, 1);
    ops::decide_update(exec, decision_, from, squares, non_finite);
    exec.synchronize();
    return ops::read_decision(decision_.data);
  }
  /// The master weight 1 after an update as decided by a gradient of 0.8, m = v = 0.
  float updated(float* average = nullptr) {
    const auto one = [&](double value) { return upload(DType::f32, Array({1}, value)); };
    const Tensor master = one(1), ema = one(1), param = blank({1});
    Exec exec(GetParam().device, 1);
    ops::adamw(exec, param, master, one(0), one(0), one(0.8), ema, decision_);
    exec.synchronize();
    if (average) *average = *ema.as<float>();
    return *master.as<float>();
  }
  Tensor decision_;
};
STRATA_INSTANTIATE(Decision);

TEST_P(Decision, TakesTheCandidateOfTheUpdatesMade) {
  EXPECT_EQ(decide(7, 0).updates, 8);
  EXPECT_EQ(decide(7, 0).grad_norm, 2.5);
  float average = 0;
  const float eighth = updated(&average);
  EXPECT_FLOAT_EQ(average, 8 + (1 - 8) * eighth);  // its moving average decays by 8
  EXPECT_EQ(decide(8, 0).updates, 9);
  const float ninth = updated(&average);
  EXPECT_FLOAT_EQ(average, 9 + (1 - 9) * ninth);
  EXPECT_NE(eighth, ninth);
  EXPECT_EQ(decide(3, 0).updates, 8);  // counted elsewhere: the first one
}

TEST_P(Decision, AGradientThatIsNotFiniteChangesNothing) {
  const ops::UpdateOutcome outcome = decide(7, 3);
  EXPECT_FALSE(outcome.applied);
  EXPECT_EQ(outcome.updates, 7);
  EXPECT_EQ(outcome.non_finite, 3);
  EXPECT_EQ(updated(), 1.0f);
}

TEST_P(Decision, AnUpdateOfAnyScaleIsClippedToTheNorm) {
  decide(7, 0);
  const float plain = updated();
  EXPECT_EQ(decide(7, 0, 2.5f).grad_norm, 2.5);
  EXPECT_EQ(updated(), plain);  // a norm that is not above it
  EXPECT_EQ(decide(7, 0, 1e-9f).grad_norm, 2.5);
  EXPECT_GT(updated(), plain);  // so small a gradient is no longer large beside eps
}

}  // namespace
}  // namespace strata
