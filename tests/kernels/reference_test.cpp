// The reference's own backward formulas against numerical differentiation of its forward ones.

#include "kernels/reference/reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

namespace strata::reference {
namespace {

class Reference : public testing::Test {
 protected:
  Array random(Shape shape, double shift = 0) {
    std::normal_distribution<double> normal(shift, 1);
    Array array(shape);
    for (auto& value : array.data) value = normal(engine_);
    return array;
  }

  /// gradient of sum(weights * f(x)) with respect to every element of x: the five-point stencil,
  /// whose error is h^4 |f^(5)| / 30 + 2e-16 / h, below 1e-9 for h = 1e-3 and functions of size
  /// one.
  void expect_gradient(const char* name, Array x, const std::function<Array(const Array&)>& f,
                       const Array& weights, const Array& gradient) {
    constexpr double h = 1e-3;
    ASSERT_EQ(gradient.size(), x.size()) << name;
    const auto at = [&](std::int64_t i, double shift) {
      const double kept = x[i];
      x[i] += shift;
      const Array y = f(x);
      x[i] = kept;
      double total = 0;
      for (std::int64_t j = 0; j < y.size(); ++j) total += weights[j] * y[j];
      return total;
    };
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const double slope = (8 * (at(i, h) - at(i, -h)) - (at(i, 2 * h) - at(i, -2 * h))) / (12 * h);
      ASSERT_NEAR(gradient[i], slope, 1e-7 * (1 + std::abs(slope))) << name << "[" << i << "]";
    }
  }

 private:
  std::mt19937_64 engine_{7};
};

TEST_F(Reference, Linear) {
  const Array x = random({3, 4}), w = random({5, 4}), b = random({5}), dy = random({3, 5});
  const auto g = linear_backward(dy, x, w);
  expect_gradient(
      "dx", x, [&](const Array& v) { return linear(v, w, b); }, dy, g.dx);
  expect_gradient(
      "dw", w, [&](const Array& v) { return linear(x, v, b); }, dy, g.dw);
  expect_gradient(
      "db", b, [&](const Array& v) { return linear(x, w, v); }, dy, g.db);
}

TEST_F(Reference, Conv2d) {
  for (const auto& p : {ops::Conv2dParams{}, ops::Conv2dParams{2, 0, 1, 1, 0}}) {
    const Array x = random({2, 5, 4, 3}), w = random({2, 3, 3, 3}), b = random({2});
    const Array dy = random(conv2d(x, w, b, p).shape);
    const auto g = conv2d_backward(dy, x, w, p);
    expect_gradient(
        "dx", x, [&](const Array& v) { return conv2d(v, w, b, p); }, dy, g.dx);
    expect_gradient(
        "dw", w, [&](const Array& v) { return conv2d(x, v, b, p); }, dy, g.dw);
    expect_gradient(
        "db", b, [&](const Array& v) { return conv2d(x, w, v, p); }, dy, g.db);
  }
}

TEST_F(Reference, GroupNorm) {
  for (const auto a : {ops::Activation::none, ops::Activation::silu}) {
    const Array x = random({2, 3, 2, 6}, 1), w = random({6}), b = random({6});
    const Array dy = random(x.shape);
    const auto g = group_norm_backward(dy, x, w, b, 3, 1e-5, a);
    const auto f = [&](const Array& v, const Array& m, const Array& s) {
      return group_norm(v, m, s, 3, 1e-5, a);
    };
    expect_gradient(
        "dx", x, [&](const Array& v) { return f(v, w, b); }, dy, g.dx);
    expect_gradient(
        "dw", w, [&](const Array& v) { return f(x, v, b); }, dy, g.dw);
    expect_gradient(
        "db", b, [&](const Array& v) { return f(x, w, v); }, dy, g.db);
  }
}

TEST_F(Reference, LayerNorm) {
  const Array x = random({3, 8}, 1), w = random({8}), b = random({8}), dy = random({3, 8});
  const auto g = layer_norm_backward(dy, x, w, 1e-5);
  expect_gradient(
      "dx", x, [&](const Array& v) { return layer_norm(v, w, b, 1e-5); }, dy, g.dx);
  expect_gradient(
      "dw", w, [&](const Array& v) { return layer_norm(x, v, b, 1e-5); }, dy, g.dw);
  expect_gradient(
      "db", b, [&](const Array& v) { return layer_norm(x, w, v, 1e-5); }, dy, g.db);
}

TEST_F(Reference, Activations) {
  const Array x = random({40}), dy = random({40}), h = random({3, 8}), dg = random({3, 4});
  Array slopes(x.shape);
  for (std::int64_t i = 0; i < x.size(); ++i) slopes[i] = dy[i] * silu_slope(x[i]);
  const auto each_silu = [](const Array& v) {
    Array y(v.shape);
    for (std::int64_t i = 0; i < y.size(); ++i) y[i] = silu(v[i]);
    return y;
  };
  expect_gradient("silu", x, each_silu, dy, slopes);
  expect_gradient("geglu", h, geglu, dg, geglu_backward(dg, h));
}

TEST_F(Reference, Attention) {
  for (const bool causal : {false, true}) {
    const Offsets at_q{0, 2, 5}, at_k = causal ? at_q : Offsets{0, 3, 3};
    const std::int64_t keys = at_k.back();
    const Array q = random({5, 4, 3}), k = random({keys, 2, 3}), v = random({keys, 2, 3});
    const Array dout = random(q.shape);
    const ops::AttentionParams p{0.7f, causal};
    const auto g = attention_backward(dout, q, k, v, at_q, at_k, p);
    const auto f = [&](const Array& a, const Array& b, const Array& c) {
      return attention(a, b, c, at_q, at_k, p).o;
    };
    expect_gradient(
        "dq", q, [&](const Array& x) { return f(x, k, v); }, dout, g.dq);
    expect_gradient(
        "dk", k, [&](const Array& x) { return f(q, x, v); }, dout, g.dk);
    expect_gradient(
        "dv", v, [&](const Array& x) { return f(q, k, x); }, dout, g.dv);
  }
}

TEST_F(Reference, UpsampleNearest) {
  const Array x = random({2, 3, 2, 2}), dy = random({2, 5, 4, 2});
  expect_gradient(
      "dx", x, [](const Array& v) { return upsample_nearest(v, 5, 4); }, dy,
      upsample_nearest_backward(dy, 3, 2));
}

}  // namespace
}  // namespace strata::reference
