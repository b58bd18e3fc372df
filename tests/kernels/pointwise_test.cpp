// Activations, gates, sums, conversions; and ops that move elements.

#include "op_test.hpp"

namespace strata {
namespace {

class Pointwise : public OpTest {
 protected:
  /// want[i] = f(x[i]...)
  template <class F, class... Arrays>
  static Array map(F f, const Array& first, const Arrays&... rest) {
    Array y(first.shape);
    for (std::int64_t i = 0; i < y.size(); ++i) y[i] = f(first[i], rest[i]...);
    return y;
  }
};
STRATA_INSTANTIATE(Pointwise);

const Shape shapes[] = {{1}, {77, 5}, {2, 8, 8, 320}, {3, 33}};

TEST_P(Pointwise, Silu) {
  for (const auto& shape : shapes) {
    const Tensor x = random(shape, 4), y = blank(shape), dy = random(shape), dx = blank(shape);
    run({y, dx}, [&](Exec& exec) {
      ops::silu(exec, y, x);
      ops::silu_backward(exec, dx, dy, x);
    });
    expect_close("y", y, map(reference::silu, values(x)), {type()});
    expect_close(
        "dx", dx,
        map([](double g, double v) { return g * reference::silu_slope(v); }, values(dy), values(x)),
        {type()});
  }
}

TEST_P(Pointwise, Geglu) {
  for (const std::int64_t rows : {1, 77})
    for (const std::int64_t width : {5, 128, 1280}) {
      const Tensor h = random({rows, 2 * width}, 2), dh = blank(h.shape);
      const Tensor y = blank({rows, width}), dy = random({rows, width});
      run({y, dh}, [&](Exec& exec) {
        ops::geglu(exec, y, h);
        ops::geglu_backward(exec, dh, dy, h);
      });
      // The distribution function is within 4 roundoffs of f32 absolute, wherever the gate is.
      const double share = 0.5 * roundoff(DType::f32) / roundoff(type());
      const Array inputs = values(h), gradient = values(dy);
      Array noise(y.shape), dnoise(h.shape);
      for (std::int64_t i = 0; i < noise.size(); ++i) {
        const std::int64_t value = i / width * 2 * width + i % width, gate = value + width;
        noise[i] = share * inputs[value] * inputs[gate];
        dnoise[value] = share * gradient[i] * inputs[gate];
        dnoise[gate] = share * gradient[i] * inputs[value];
      }
      expect_close("y", y, reference::geglu(inputs), {type()}, noise);
      expect_close("dh", dh, reference::geglu_backward(gradient, inputs), {type()}, dnoise);
    }
}

TEST_P(Pointwise, ActivationsAndGates) {
  using ops::Activation;
  for (const Activation a : {Activation::none, Activation::silu, Activation::gelu,
                             Activation::gelu_tanh, Activation::quick_gelu, Activation::relu}) {
    SCOPED_TRACE(static_cast<int>(a));
    const Tensor x = random({77, 33}, 2), up = random({77, 33});
    const Tensor y = blank({77, 33}), z = blank({77, 33});
    run({y, z}, [&](Exec& exec) {
      ops::activation(exec, y, x, a);
      ops::gated(exec, z, x, up, a);
    });
    const auto act = [a](double v) { return reference::activation(v, a); };
    // gelu's distribution function is within 4 roundoffs of f32 absolute, wherever x is.
    const double share = 0.5 * roundoff(DType::f32) / roundoff(type());
    const auto noise = [share](double v, double u) { return share * v * u; };
    const Array inputs = values(x), factors = values(up);
    expect_close("y", y, map(act, inputs), {type()}, map(noise, inputs, Array(x.shape, 1)));
    expect_close("z", z, map([act](double g, double u) { return act(g) * u; }, inputs, factors),
                 {type()}, map(noise, inputs, factors));
  }
}

TEST_P(Pointwise, AddAlsoInPlace) {
  for (const auto& shape : shapes) {
    const Tensor a = random(shape), b = random(shape), y = blank(shape);
    const Array want = sum(values(a), values(b));
    run({y, a}, [&](Exec& exec) {
      ops::add(exec, y, a, b);
      ops::add(exec, a, a, b);
    });
    expect_close("y", y, want, {type()});
    expect_close("a", a, want, {type()});
  }
}

TEST_P(Pointwise, AddPerSample) {
  const Shape shape{3, 5, 4, 70};
  const Tensor x = random(shape), bias = random({3, 70}), y = blank(shape), dbias = blank({3, 70});
  run({y, dbias, x}, [&](Exec& exec) {
    ops::add_per_sample(exec, y, x, bias);
    ops::add_per_sample_backward(exec, dbias, y);
    ops::add_per_sample(exec, x, x, bias);
  });
  EXPECT_EQ(values(x).data, values(y).data);
  const Array got = values(y);
  Array want({3, 70});
  for (std::int64_t i = 0; i < got.size(); ++i) want[i / (20 * 70) * 70 + i % 70] += got[i];
  expect_close("dbias", dbias, want, {type(), 20});
}

TEST_P(Pointwise, CastFillScaleAccumulate) {
  const Tensor x = random(DType::f32, {41, 9}), y = blank({41, 9}),
               back = blank(DType::f32, {41, 9});
  const Tensor rescaled = random({41, 9}), scaled = blank({41, 9}), filled = blank({7}),
               total = random(DType::f32, {41, 9});
  const Array before = values(total), small = values(rescaled);
  run({y, back, scaled, rescaled, filled, total}, [&](Exec& exec) {
    ops::cast(exec, y, x);
    ops::cast(exec, back, y);
    ops::scale(exec, scaled, x, 0.18215f);
    ops::scale(exec, rescaled, rescaled, 59.75f);
    ops::fill(exec, filled, 1.5f);
    ops::accumulate(exec, total, y);
  });
  expect_close("y", y, values(x), {type()});
  expect_close("rescaled", rescaled, map([](double v) { return 59.75 * v; }, small), {type()});
  EXPECT_EQ(values(back).data, values(y).data);
  expect_close("scaled", scaled, map([](double v) { return 0.18215 * v; }, values(x)), {type()});
  EXPECT_EQ(values(filled).data, std::vector<double>(7, 1.5));
  expect_close("total", total, sum(before, values(y)), {DType::f32});
}

TEST_P(Pointwise, ConcatAndSplit) {
  const Tensor a = random({2, 3, 5, 7}), b = random({2, 3, 5, 64}), y = blank({2, 3, 5, 71});
  const Tensor a2 = blank(a.shape), b2 = blank(b.shape);
  run({y, a2, b2}, [&](Exec& exec) {
    ops::concat(exec, y, a, b);
    ops::split(exec, a2, b2, y);
  });
  const Array joined = values(y), first = values(a), second = values(b);
  for (std::int64_t i = 0; i < joined.size(); ++i) {
    const std::int64_t row = i / 71, c = i % 71;
    EXPECT_EQ(joined[i], c < 7 ? first[row * 7 + c] : second[row * 64 + c - 7]);
  }
  EXPECT_EQ(values(a2).data, first.data);
  EXPECT_EQ(values(b2).data, second.data);
}

TEST_P(Pointwise, UpsampleNearest) {
  for (const auto& [height, width] :
       {std::pair<std::int64_t, std::int64_t>{8, 6}, {7, 5}, {4, 3}}) {
    const Tensor x = random({2, 4, 3, 70}), y = blank({2, height, width, 70});
    const Tensor dy = random(y.shape), dx = blank(x.shape);
    run({y, dx}, [&](Exec& exec) {
      ops::upsample_nearest(exec, y, x);
      ops::upsample_nearest_backward(exec, dx, dy);
    });
    EXPECT_EQ(values(y).data, reference::upsample_nearest(values(x), height, width).data);
    expect_close("dx", dx, reference::upsample_nearest_backward(values(dy), 4, 3), {type(), 9});
  }
}

TEST_P(Pointwise, ChannelsLastAndBack) {
  const Tensor x = random(DType::f32, {2, 3, 5, 4}), y = blank({2, 5, 4, 3});
  const Tensor back = blank(DType::f32, x.shape);
  run({y, back}, [&](Exec& exec) {
    ops::nchw_to_nhwc(exec, y, x);
    ops::nhwc_to_nchw(exec, back, y);
  });
  const Array from = values(x), to = values(y);
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t p = 0; p < 20; ++p)
      for (std::int64_t c = 0; c < 3; ++c)
        EXPECT_NEAR(to[(b * 20 + p) * 3 + c], from[(b * 3 + c) * 20 + p],
                    roundoff(type()) * std::abs(from[(b * 3 + c) * 20 + p]));
  expect_close("back", back, from, {type()});
}

TEST(HalfPrecision, EveryFiniteHalfIsExact) {
  std::vector<std::uint16_t> halves;
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits)
    if ((bits & 0x7c00u) != 0x7c00u) halves.push_back(static_cast<std::uint16_t>(bits));
  const auto count = static_cast<std::int64_t>(halves.size());
  const Tensor x{reinterpret_cast<std::byte*>(halves.data()), DType::f16, host_device, {count}};
  Buffer y(DType::f32, {count});
  Exec exec(host_device, 1);
  ops::cast(exec, y, x);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = halves[static_cast<std::size_t>(i)];
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double magnitude =
        exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    ASSERT_EQ(y.as<float>()[i], bits & 0x8000 ? -magnitude : magnitude) << bits;
  }
}

}  // namespace
}  // namespace strata
