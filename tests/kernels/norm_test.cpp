// group_norm, layer_norm, rms_norm and the normalised sum of layers.

#include "op_test.hpp"

namespace strata {
namespace {

class Norm : public OpTest {};
STRATA_INSTANTIATE(Norm);

struct GroupCase {
  Shape shape;
  int groups;
  ops::Activation activation;
};
const GroupCase group_cases[] = {
    {{1, 5, 7, 320}, 32, ops::Activation::silu},  // ten channels a group
    {{2, 8, 8, 64}, 32, ops::Activation::none},
    {{3, 4, 4, 32}, 8, ops::Activation::silu},
    {{2, 1, 1, 24}, 3, ops::Activation::silu},
    {{2, 40, 33, 40}, 4, ops::Activation::silu},  // several blocks of pixels, the last one short
    {{4, 17, 12}, 1, ops::Activation::none},
    {{2, 96}, 8, ops::Activation::none}};

constexpr float eps = 1e-5f;

/// Elements that one statistic, and one parameter gradient, is a sum of.
std::int64_t group_size(const GroupCase& c) {
  return c.shape.numel() / (c.shape[0] * c.groups);
}

TEST_P(Norm, GroupNorm) {
  for (const auto& c : group_cases) {
    SCOPED_TRACE(to_string(c.shape));
    const Shape channels{c.shape[-1]};
    const Tensor x = random(c.shape, 2, 3), w = random(channels, 0.3, 1), b = random(channels);
    const Tensor y = blank(c.shape), z = blank(c.shape);
    const Tensor stats = blank(DType::f32, {c.shape[0], c.groups, 2});
    run({y, z, stats}, [&](Exec& exec) {
      ops::group_norm(exec, y, stats, x, w, b, c.groups, eps, c.activation);
      ops::group_norm(exec, z, {}, x, w, b, c.groups, eps, c.activation);
    });
    const Array want =
        reference::group_norm(values(x), values(w), values(b), c.groups, eps, c.activation);
    expect_close("y", y, want, {type(), group_size(c)});
    expect_close("z", z, want, {type(), group_size(c)});
  }
}

TEST_P(Norm, GroupNormBackward) {
  for (const auto& c : group_cases) {
    SCOPED_TRACE(to_string(c.shape));
    const Shape channels{c.shape[-1]};
    const Tensor x = random(c.shape, 2, 3), w = random(channels, 0.3, 1), b = random(channels);
    const Tensor y = blank(c.shape), dx = blank(c.shape), dy = random(c.shape);
    const Tensor stats = blank(DType::f32, {c.shape[0], c.groups, 2});
    const Tensor dw = random(DType::f32, channels), db = random(DType::f32, channels);
    const Array dw0 = values(dw), db0 = values(db);
    run({dx, dw, db}, [&](Exec& exec) {
      ops::group_norm(exec, y, stats, x, w, b, c.groups, eps, c.activation);
      ops::group_norm_backward(exec, dx, dw, db, dy, stats, x, w, b, c.groups, c.activation);
    });
    const auto want = reference::group_norm_backward(values(dy), values(x), values(w), values(b),
                                                     c.groups, eps, c.activation);
    const std::int64_t pixels = c.shape.numel() / c.shape[-1];
    expect_close("dx", dx, want.dx, {type(), group_size(c)});
    expect_close("dw", dw, sum(dw0, want.dw), {DType::f32, pixels + group_size(c)});
    expect_close("db", db, sum(db0, want.db), {DType::f32, pixels + group_size(c)});
  }
}

// The mean is far larger than the deviation: sums of squares would lose everything.
TEST_P(Norm, GroupNormOfShiftedData) {
  const Tensor x = random({2, 40, 40, 64}, 1, 1000), w = random({64}), b = random({64});
  const Tensor y = blank(x.shape);
  run({y},
      [&](Exec& exec) { ops::group_norm(exec, y, {}, x, w, b, 32, eps, ops::Activation::none); });
  const Array want =
      reference::group_norm(values(x), values(w), values(b), 32, eps, ops::Activation::none);
  // An f32 mean of 1000 is off by up to 3e-5 deviations: a thousand roundoffs of the output.
  expect_close("y", y, want, {type(), 3200 * 40});
}

struct RowCase {
  std::int64_t rows, width;
};
constexpr RowCase row_cases[] = {{1, 320}, {77, 40}, {130, 64}, {3, 1280}, {200, 7}};

TEST_P(Norm, LayerNorm) {
  for (const auto& c : row_cases) {
    SCOPED_TRACE(fmt::format("{} x {}", c.rows, c.width));
    const Shape shape{c.rows, c.width}, channels{c.width};
    const Tensor x = random(shape, 2, 3), w = random(channels, 0.3, 1), b = random(channels);
    const Tensor y = blank(shape), plain = blank(shape), stats = blank(DType::f32, {c.rows, 2});
    run({y, plain, stats}, [&](Exec& exec) {
      ops::layer_norm(exec, y, stats, x, w, b, eps);
      ops::layer_norm(exec, plain, {}, x, {}, {}, eps);
    });
    expect_close("y", y, reference::layer_norm(values(x), values(w), values(b), eps),
                 {type(), c.width});
    expect_close("plain", plain, reference::layer_norm(values(x), {}, {}, eps), {type(), c.width});
  }
}

TEST_P(Norm, LayerNormBackward) {
  for (const auto& c : row_cases) {
    for (const bool affine : {true, false}) {
      SCOPED_TRACE(fmt::format("{} x {} affine {}", c.rows, c.width, affine));
      const Shape shape{c.rows, c.width}, channels{c.width};
      const Tensor x = random(shape, 2, 3), dy = random(shape), y = blank(shape);
      const Tensor w = affine ? random(channels, 0.3, 1) : Tensor{};
      const Tensor b = affine ? random(channels) : Tensor{};
      const Tensor dx = blank(shape), stats = blank(DType::f32, {c.rows, 2});
      const Tensor dw = random(DType::f32, channels), db = random(DType::f32, channels);
      const Array dw0 = values(dw), db0 = values(db);
      run({dx, dw, db}, [&](Exec& exec) {
        ops::layer_norm(exec, y, stats, x, w, b, eps);
        ops::layer_norm_backward(exec, dx, affine ? dw : Tensor{}, affine ? db : Tensor{}, dy,
                                 stats, x, w);
      });
      const auto want =
          reference::layer_norm_backward(values(dy), values(x), affine ? values(w) : Array{}, eps);
      expect_close("dx", dx, want.dx, {type(), c.width});
      if (!affine) continue;
      expect_close("dw", dw, sum(dw0, want.dw), {DType::f32, c.rows + c.width});
      expect_close("db", db, sum(db0, want.db), {DType::f32, c.rows + c.width});
    }
  }
}

TEST_P(Norm, RmsNorm) {
  for (const auto& c : row_cases) {
    SCOPED_TRACE(fmt::format("{} x {}", c.rows, c.width));
    const Tensor x = random({c.rows, c.width}, 2), w = random({c.width}, 0.3, 1);
    const Tensor y = blank(x.shape), z = blank(x.shape);
    run({y, z}, [&](Exec& exec) {
      ops::rms_norm(exec, y, x, w, 1e-6f);
      ops::rms_norm(exec, z, x, w, 1e-6f, ops::RmsScale::one_plus_weight);
    });
    // Rounded to T before the product as well as after it.
    expect_close("y", y, reference::rms_norm(values(x), values(w), 1e-6), {type(), c.width, 2});
    expect_close("z", z,
                 reference::rms_norm(values(x), values(w), 1e-6, ops::RmsScale::one_plus_weight),
                 {type(), c.width});
  }
}

TEST_P(Norm, AccumulateLayer) {
  for (const auto& c : row_cases) {
    for (const bool normalised : {true, false}) {
      SCOPED_TRACE(fmt::format("{} x {} normalised {}", c.rows, c.width, normalised));
      const Tensor x = random({c.rows, c.width}, 2, 1), total = random(DType::f32, x.shape);
      const Array before = values(total);
      run({total}, [&](Exec& exec) { ops::accumulate_layer(exec, total, x, normalised); });
      const Array part = normalised ? reference::layer_norm(values(x), {}, {}, 1e-5) : values(x);
      expect_close("sum", total, sum(before, part), {DType::f32, c.width});
    }
  }
}

}  // namespace
}  // namespace strata
