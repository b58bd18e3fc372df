// linear and conv2d, forward and backward.

#include <cstring>

#include "op_test.hpp"

namespace strata {
namespace {

class Matrix : public OpTest {};
STRATA_INSTANTIATE(Matrix);

struct LinearCase {
  std::int64_t m, n, k;
};
constexpr LinearCase linear_cases[] = {
    {1, 320, 320}, {77, 320, 1024}, {308, 64, 96},  {64, 32, 24},   {13, 7, 5},
    {256, 64, 64}, {33, 4, 17},     {1024, 40, 16}, {2, 1280, 320}, {40, 1, 8}};

TEST_P(Matrix, Linear) {
  for (const auto& c : linear_cases) {
    SCOPED_TRACE(fmt::format("m {} n {} k {}", c.m, c.n, c.k));
    const Tensor x = random({c.m, c.k}), w = random({c.n, c.k}), b = random({c.n});
    const Tensor y = blank({c.m, c.n}), z = blank({c.m, c.n});
    run({y, z}, [&](Exec& exec) {
      ops::linear(exec, y, x, w, b);
      ops::linear(exec, z, x, w);
    });
    expect_close("y", y, reference::linear(values(x), values(w), values(b)), {type(), c.k});
    expect_close("z", z, reference::linear(values(x), values(w), {}), {type(), c.k});
  }
}

TEST_P(Matrix, PackedLinear) {
  for (const auto& c : {LinearCase{128, 320, 320}, {256, 77, 33}, {384, 1, 5}, {128, 1280, 64}}) {
    SCOPED_TRACE(fmt::format("m {} n {} k {}", c.m, c.n, c.k));
    const Tensor x = random({c.m, c.k}), w = random({c.n, c.k}), b = random({c.n});
    const Tensor y = blank({c.m, c.n}), z = blank({c.m, c.n}), alone = blank({128, c.n});
    const Tensor few = blank({32, c.n}), fewer = blank({16, c.n});
    const Array want = reference::linear(values(x), values(w), values(b));
    const Array plain = reference::linear(values(x), values(w), {});
    run({y, z, alone, few, fewer}, [&](Exec& exec) {
      const Tensor copy = upload(type(), values(w));
      const ops::PackedWeight packed = ops::pack(exec, copy);
      exec.synchronize();
      std::memset(copy.data, 0xff, copy.bytes());  // the plain weight is not needed any more
      ops::linear(exec, y, x, packed, b);
      ops::linear(exec, z, x, packed);
      ops::linear(exec, alone, x.rows(c.m - 128, c.m), packed, b);
      ops::linear(exec, few, x.rows(0, 32), packed, b, ops::packed_few_rows);
      ops::linear(exec, fewer, x.rows(16, 32), packed, b, ops::packed_few_rows);
    });
    expect_close("y", y, want, {type(), c.k});
    expect_close("z", z, plain, {type(), c.k});
    EXPECT_EQ(std::memcmp(alone.data, y.rows(c.m - 128, c.m).data, alone.bytes()), 0);
    expect_close("few", few, reference::linear(values(x.rows(0, 32)), values(w), values(b)),
                 {type(), c.k});
    EXPECT_EQ(std::memcmp(fewer.data, few.rows(16, 32).data, fewer.bytes()), 0);
  }
  Exec exec(GetParam().device, 1);
  const auto packed = ops::pack(exec, random({8, 8}));
  EXPECT_THROW(ops::linear(exec, blank({64, 8}), blank({64, 8}), packed), Error);
  EXPECT_THROW(ops::linear(exec, blank({64, 8}), blank({64, 8}), packed, {}, 64), Error);
}

TEST_P(Matrix, LinearBackward) {
  for (const auto& c : linear_cases) {
    SCOPED_TRACE(fmt::format("m {} n {} k {}", c.m, c.n, c.k));
    const Tensor x = random({c.m, c.k}), w = random({c.n, c.k}), dy = random({c.m, c.n});
    const Tensor dx = blank({c.m, c.k}), dw = random(DType::f32, {c.n, c.k});
    const Tensor db = random(DType::f32, {c.n});
    const Array dw0 = values(dw), db0 = values(db);
    run({dx, dw, db}, [&](Exec& exec) { ops::linear_backward(exec, dx, dw, db, dy, x, w); });
    const auto want = reference::linear_backward(values(dy), values(x), values(w));
    expect_close("dx", dx, want.dx, {type(), c.n});
    expect_close("dw", dw, sum(dw0, want.dw), {DType::f32, c.m});
    expect_close("db", db, sum(db0, want.db), {DType::f32, c.m});
  }
}

TEST_P(Matrix, LinearOfNoRows) {
  const Tensor x = blank({0, 8}), w = random({4, 8}), y = blank({0, 4});
  const Tensor dw = random(DType::f32, {4, 8});
  const Array before = values(dw);
  run({dw}, [&](Exec& exec) {
    ops::linear(exec, y, x, w);
    ops::linear_backward(exec, x, dw, {}, y, x, w);
  });
  EXPECT_EQ(values(dw).data, before.data);
}

TEST_P(Matrix, LinearLeadingAxesAndAbsentGradients) {
  const Tensor x = random({2, 3, 5, 8}), w = random({6, 8}), y = blank({2, 3, 5, 6});
  const Tensor dy = random({30, 6}), db = random(DType::f32, {6});
  const Array db0 = values(db);
  run({y, db}, [&](Exec& exec) {
    ops::linear(exec, y, x, w);
    ops::linear_backward(exec, {}, {}, db, dy, x, w);
  });
  expect_close("y", y, reference::linear(values(x), values(w), {}), {type(), 8});
  const auto want = reference::linear_backward(values(dy), values(x), values(w));
  expect_close("db", db, sum(db0, want.db), {DType::f32, 30});
}

TEST_P(Matrix, ChangedWeightsAreSeen) {
  const Tensor x = random({64, 32}), w = random({48, 32}), other = random({48, 32});
  const Tensor y = blank({64, 48});
  Exec exec(GetParam().device, 1);
  ops::linear(exec, y, x, w);
  memory::copy(w.data, w.device, other.data, other.device, w.bytes());
  exec.weights_changed();
  ops::linear(exec, y, x, w);
  exec.synchronize();
  expect_close("y", y, reference::linear(values(x), values(other), {}), {type(), 32});
}

TEST_P(Matrix, LayoutsThatAreNotKeptGiveTheSameBits) {
  const Tensor x = random({2, 8, 8, 32}), w = random({48, 3, 3, 32}),
               other = random({48, 3, 3, 32});
  const Tensor kept = blank({2, 8, 8, 48}), once = blank({2, 8, 8, 48});
  Exec exec(GetParam().device, 1);
  ops::conv2d(exec, kept, x, other, {}, {});
  const std::int64_t both = exec.layout_bytes();
  ops::conv2d(exec, kept, x, w, {}, {});
  EXPECT_EQ(exec.layout_bytes(), 2 * both);
  exec.keep_layouts(false);
  EXPECT_EQ(exec.layout_bytes(), 0);
  ops::conv2d(exec, once, x, other, {}, {});
  ops::conv2d(exec, once, x, w, {}, {});
  EXPECT_EQ(exec.layout_bytes(), both);
  exec.synchronize();
  EXPECT_EQ(values(once).data, values(kept).data);
}

struct ConvCase {
  std::int64_t batch, height, width, in, out, kernel;
  ops::Conv2dParams params;
};
const ConvCase conv_cases[] = {{2, 8, 8, 32, 64, 3, {}},
                               {1, 5, 7, 320, 40, 3, {}},
                               {3, 8, 6, 4, 32, 3, {}},
                               {2, 8, 8, 32, 4, 3, {}},
                               {2, 8, 8, 32, 32, 3, {.stride = 2}},
                               {1, 9, 6, 24, 16, 3, {.stride = 2, .pad_top = 0, .pad_left = 0}},
                               {2, 6, 4, 48, 33, 1, {1, 0, 0, 0, 0}},
                               {1, 7, 5, 3, 16, 3, {}},
                               {1, 8, 8, 16, 3, 3, {}},
                               {16, 4, 4, 128, 64, 3, {}}};

TEST_P(Matrix, Conv2d) {
  for (const auto& c : conv_cases) {
    SCOPED_TRACE(fmt::format("{}x{}x{} {} -> {} kernel {} stride {}", c.batch, c.height, c.width,
                             c.in, c.out, c.kernel, c.params.stride));
    const Tensor x = random({c.batch, c.height, c.width, c.in});
    const Tensor w = random({c.out, c.kernel, c.kernel, c.in}), b = random({c.out});
    const Array want = reference::conv2d(values(x), values(w), values(b), c.params);
    const Array plain = reference::conv2d(values(x), values(w), {}, c.params);
    const Tensor y = blank(want.shape), z = blank(want.shape);
    run({y, z}, [&](Exec& exec) {
      ops::conv2d(exec, y, x, w, b, c.params);
      ops::conv2d(exec, z, x, w, {}, c.params);
    });
    const std::int64_t length = c.kernel * c.kernel * c.in;
    expect_close("y", y, want, {type(), length});
    expect_close("z", z, plain, {type(), length});
  }
}

TEST_P(Matrix, Conv2dBackward) {
  for (const auto& c : conv_cases) {
    SCOPED_TRACE(fmt::format("{}x{}x{} {} -> {} kernel {} stride {}", c.batch, c.height, c.width,
                             c.in, c.out, c.kernel, c.params.stride));
    const Tensor x = random({c.batch, c.height, c.width, c.in});
    const Tensor w = random({c.out, c.kernel, c.kernel, c.in});
    const Tensor dy = random(reference::conv2d(values(x), values(w), {}, c.params).shape);
    const Tensor dx = blank(x.shape), dw = random(DType::f32, w.shape);
    const Tensor db = random(DType::f32, {c.out});
    const Array dw0 = values(dw), db0 = values(db);
    run({dx, dw, db},
        [&](Exec& exec) { ops::conv2d_backward(exec, dx, dw, db, dy, x, w, c.params); });
    const auto want = reference::conv2d_backward(values(dy), values(x), values(w), c.params);
    const std::int64_t pixels = dy.numel() / c.out;
    expect_close("dx", dx, want.dx, {type(), c.kernel * c.kernel * c.out});
    expect_close("dw", dw, sum(dw0, want.dw), {DType::f32, pixels});
    expect_close("db", db, sum(db0, want.db), {DType::f32, pixels});
  }
}

TEST_P(Matrix, WrongShapesAreRefused) {
  Exec exec(GetParam().device, 1);
  const Tensor x = random({4, 8}), w = random({6, 7}), y = blank({4, 6});
  try {
    ops::linear(exec, y, x, w);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::internal);
    EXPECT_NE(std::string(error.what()).find("linear: x is (4, 8)"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace strata
