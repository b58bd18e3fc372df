// Speed of each family of ops, beside the peaks of this machine measured in the same process:
//   ops_bench [--benchmark_filter=...]        threads: OMP_NUM_THREADS
// Counters: GFLOP/s and its share of the multiply-add peak of its dtype, or GB/s and its share of a
// plain copy's.

#include <benchmark/benchmark.h>

#include <cmath>
#include <random>

#include "core/exec.hpp"
#include "kernels/ops.hpp"
#include "perf/peaks.hpp"

namespace strata {
namespace {

/// Tensors of one benchmark; `T` is the dtype under test.
class Bench {
 public:
  explicit Bench(benchmark::State& state)
      : state_(state), type(state.range(0) == 2 ? DType::bf16 : DType::f32) {}

  Tensor random(DType dtype, Shape shape) {
    kept_.emplace_back(dtype, shape);
    const Tensor t = kept_.back();
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      if (dtype == DType::bf16)
        t.as<bf16>()[i] = to_bf16(normal(engine_));
      else
        t.as<float>()[i] = normal(engine_);
    }
    return t;
  }
  Tensor random(Shape shape) { return random(type, shape); }
  Tensor offsets(std::int64_t batch, std::int64_t length) {
    kept_.emplace_back(DType::i64, Shape{batch + 1});
    for (std::int64_t b = 0; b <= batch; ++b) kept_.back().as<std::int64_t>()[b] = b * length;
    return kept_.back();
  }

  template <class F>
  void compute(double flops, F op) {
    const double rate = run(flops, op);
    state_.counters["GFLOP/s"] = rate * 1e-9;
    state_.counters["share_of_peak"] = rate / flops_peak(type);
  }
  template <class F>
  void stream(double bytes, F op) {
    const double rate = run(bytes, op);
    state_.counters["GB/s"] = rate * 1e-9;
    state_.counters["share_of_copy"] = rate / bytes_peak();
  }
  double element() const { return static_cast<double>(size_of(type)); }

 private:
  template <class F>
  double run(double work, F op) {
    op(exec);
    double seconds = 0;
    for ([[maybe_unused]] auto _ : state_) {
      const double once = seconds_of([&] { op(exec); });
      state_.SetIterationTime(once);
      seconds += once;
    }
    return work * static_cast<double>(state_.iterations()) / seconds;
  }

  benchmark::State& state_;
  std::mt19937_64 engine_{1};
  std::vector<Buffer> kept_;

 public:
  Exec exec;
  DType type;
};

// --- matrix products
// ------------------------------------------------------------------------------
void linear(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t m = state.range(1), n = state.range(2), k = state.range(3);
  const Tensor x = bench.random({m, k}), w = bench.random({n, k}), b = bench.random({n});
  const Tensor y = bench.random({m, n});
  bench.compute(2.0 * static_cast<double>(m * n * k),
                [&](Exec& exec) { ops::linear(exec, y, x, w, b); });
}

void linear_backward(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t m = state.range(1), n = state.range(2), k = state.range(3);
  const bool weights = state.range(4);
  const Tensor x = bench.random({m, k}), w = bench.random({n, k}), dy = bench.random({m, n});
  const Tensor dx = bench.random({m, k}), dw = bench.random(DType::f32, {n, k});
  bench.compute(2.0 * static_cast<double>(m * n * k), [&](Exec& exec) {
    ops::linear_backward(exec, weights ? Tensor{} : dx, weights ? dw : Tensor{}, {}, dy, x, w);
  });
}

void conv2d(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t b = state.range(1), h = state.range(2), c = state.range(3), n = state.range(4);
  const Tensor x = bench.random({b, h, h, c}), w = bench.random({n, 3, 3, c});
  const Tensor y = bench.random({b, h, h, n}), bias = bench.random({n});
  bench.compute(18.0 * static_cast<double>(b * h * h * c * n),
                [&](Exec& exec) { ops::conv2d(exec, y, x, w, bias, {}); });
}

void conv2d_backward(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t b = state.range(1), h = state.range(2), c = state.range(3), n = state.range(4);
  const bool weights = state.range(5);
  const Tensor x = bench.random({b, h, h, c}), w = bench.random({n, 3, 3, c});
  const Tensor dy = bench.random({b, h, h, n}), dx = bench.random({b, h, h, c});
  const Tensor dw = bench.random(DType::f32, {n, 3, 3, c});
  bench.compute(18.0 * static_cast<double>(b * h * h * c * n), [&](Exec& exec) {
    ops::conv2d_backward(exec, weights ? Tensor{} : dx, weights ? dw : Tensor{}, {}, dy, x, w, {});
  });
}

// --- attention
// ------------------------------------------------------------------------------------
void attention(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t b = state.range(1), tq = state.range(2), tk = state.range(3);
  const std::int64_t heads = state.range(4), width = state.range(5);
  const bool backward = state.range(6);
  const Shape q_shape{b * tq, heads, width}, k_shape{b * tk, heads, width};
  const Tensor q = bench.random(q_shape), k = bench.random(k_shape), v = bench.random(k_shape);
  const Tensor o = bench.random(q_shape), dout = bench.random(q_shape), dq = bench.random(q_shape);
  const Tensor dk = bench.random(k_shape), dv = bench.random(k_shape);
  const Tensor lse = bench.random(DType::f32, {b * tq, heads});
  const Tensor q_offsets = bench.offsets(b, tq), k_offsets = bench.offsets(b, tk);
  const ops::AttentionParams p{1.0f / std::sqrt(static_cast<float>(width)), false};
  const double flops = 4.0 * static_cast<double>(b * tq * tk * heads * width);
  if (!backward)
    bench.compute(
        flops, [&](Exec& exec) { ops::attention(exec, o, lse, q, k, v, q_offsets, k_offsets, p); });
  else
    bench.compute(2.5 * flops, [&](Exec& exec) {
      ops::attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, q_offsets, k_offsets, p);
    });
}

// --- memory-bound
// ---------------------------------------------------------------------------------
void group_norm(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t b = state.range(1), h = state.range(2), c = state.range(3);
  const bool backward = state.range(4);
  const Tensor x = bench.random({b, h, h, c}), w = bench.random({c}), bias = bench.random({c});
  const Tensor y = bench.random(x.shape), dy = bench.random(x.shape), dx = bench.random(x.shape);
  const Tensor stats = bench.random(DType::f32, {b, 32, 2});
  const Tensor dw = bench.random(DType::f32, {c}), db = bench.random(DType::f32, {c});
  const auto silu = ops::Activation::silu;
  const double bytes = static_cast<double>(x.numel()) * bench.element();
  ops::group_norm(bench.exec, y, stats, x, w, bias, 32, 1e-5f, silu);
  if (!backward)  // x is read for the statistics and again, y written
    bench.stream(3 * bytes,
                 [&](Exec& exec) { ops::group_norm(exec, y, stats, x, w, bias, 32, 1e-5f, silu); });
  else  // x and dy read twice, dx written
    bench.stream(5 * bytes, [&](Exec& exec) {
      ops::group_norm_backward(exec, dx, dw, db, dy, stats, x, w, bias, 32, silu);
    });
}

void layer_norm(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t m = state.range(1), c = state.range(2);
  const bool backward = state.range(3);
  const Tensor x = bench.random({m, c}), w = bench.random({c}), b = bench.random({c});
  const Tensor y = bench.random({m, c}), dx = bench.random({m, c}), dy = bench.random({m, c});
  const Tensor stats = bench.random(DType::f32, {m, 2});
  const Tensor dw = bench.random(DType::f32, {c}), db = bench.random(DType::f32, {c});
  const double bytes = static_cast<double>(x.numel()) * bench.element();
  ops::layer_norm(bench.exec, y, stats, x, w, b, 1e-5f);
  if (!backward)
    bench.stream(2 * bytes, [&](Exec& exec) { ops::layer_norm(exec, y, stats, x, w, b, 1e-5f); });
  else
    bench.stream(3 * bytes,
                 [&](Exec& exec) { ops::layer_norm_backward(exec, dx, dw, db, dy, stats, x, w); });
}

void geglu(benchmark::State& state) {
  Bench bench(state);
  const std::int64_t m = state.range(1), f = state.range(2);
  const bool backward = state.range(3);
  const Tensor h = bench.random({m, 2 * f}), y = bench.random({m, f}),
               dh = bench.random({m, 2 * f});
  const double bytes = static_cast<double>(y.numel()) * bench.element();
  if (!backward)
    bench.stream(3 * bytes, [&](Exec& exec) { ops::geglu(exec, y, h); });
  else
    bench.stream(5 * bytes, [&](Exec& exec) { ops::geglu_backward(exec, dh, y, h); });
}

void add(benchmark::State& state) {
  Bench bench(state);
  const Tensor a = bench.random({state.range(1)}), b = bench.random({state.range(1)});
  bench.stream(3.0 * static_cast<double>(a.numel()) * bench.element(),
               [&](Exec& exec) { ops::add(exec, a, a, b); });
}

void adamw(benchmark::State& state) {
  Bench bench(state);
  const Shape shape{state.range(1)};
  const Tensor master = bench.random(DType::f32, shape), m = bench.random(DType::f32, shape);
  const Buffer squares = Buffer::zeros(DType::f32, shape);
  const Tensor grad = bench.random(DType::f32, shape), param = bench.random(shape);
  const Buffer decision = ops::decision_of({.adamw = {.lr = 1e-4}});
  // master, m, v read and written, grad read, param written
  bench.stream((28.0 + bench.element()) * static_cast<double>(master.numel()), [&](Exec& exec) {
    ops::adamw(exec, param, master, m, squares, grad, {}, decision);
  });
}

void normals(benchmark::State& state) {
  Bench bench(state);
  const Tensor out = bench.random(DType::f32, {8, state.range(1)});
  const std::vector<PhiloxCounter> at(8, PhiloxCounter{1, 0, Purpose::noise});
  bench.stream(4.0 * static_cast<double>(out.numel()),
               [&](Exec& exec) { ops::normals(exec, out, {17}, at.data()); });
}

// The first argument is the number of bytes of the dtype: 4 = f32, 2 = bf16.
void with_types(benchmark::internal::Benchmark* b,
                const std::vector<std::vector<std::int64_t>>& all) {
  for (const std::int64_t type : {4, 2})
    for (auto arguments : all) {
      arguments.insert(arguments.begin(), type);
      b->Args(arguments);
    }
  b->UseManualTime()->Unit(benchmark::kMicrosecond)->MinTime(0.2);
}

#define STRATA_BENCH(op, ...) \
  BENCHMARK(op)->Apply([](benchmark::internal::Benchmark* b) { with_types(b, __VA_ARGS__); })

// Shapes of the miniature U-Net (batch 32, 8x8 and 4x4) and of SD2 (batch 2, 32x32 latents).
STRATA_BENCH(linear, {{2048, 64, 64},
                      {2048, 512, 64},
                      {2048, 320, 320},
                      {2048, 2560, 320},
                      {154, 1280, 1024},
                      {128, 1280, 1280}});
STRATA_BENCH(linear_backward, {{2048, 64, 64, 0},
                               {2048, 320, 320, 0},
                               {128, 1280, 1280, 0},
                               {2048, 64, 64, 1},
                               {2048, 320, 320, 1},
                               {2048, 2560, 320, 1},
                               {128, 1280, 1280, 1}});
STRATA_BENCH(conv2d, {{32, 8, 4, 64},
                      {32, 8, 64, 64},
                      {32, 4, 128, 128},
                      {2, 32, 320, 320},
                      {2, 8, 1280, 1280},
                      {32, 8, 64, 4}});
STRATA_BENCH(conv2d_backward, {{32, 8, 64, 64, 0},
                               {32, 4, 128, 128, 0},
                               {2, 32, 320, 320, 0},
                               {2, 8, 1280, 1280, 0},
                               {32, 8, 4, 64, 1},
                               {32, 8, 64, 64, 1},
                               {32, 4, 128, 128, 1},
                               {2, 32, 320, 320, 1},
                               {2, 8, 1280, 1280, 1},
                               {32, 8, 64, 4, 1}});
STRATA_BENCH(attention, {{2, 1024, 1024, 5, 64, 0},
                         {2, 1024, 77, 5, 64, 0},
                         {32, 64, 64, 4, 16, 0},
                         {32, 64, 24, 4, 16, 0},
                         {2, 1024, 1024, 5, 64, 1},
                         {2, 1024, 77, 5, 64, 1},
                         {32, 64, 64, 4, 16, 1},
                         {32, 64, 24, 4, 16, 1}});
STRATA_BENCH(group_norm, {{32, 8, 64, 0}, {2, 32, 320, 0}, {32, 8, 64, 1}, {2, 32, 320, 1}});
STRATA_BENCH(layer_norm, {{2048, 64, 0}, {2048, 320, 0}, {2048, 64, 1}, {2048, 320, 1}});
STRATA_BENCH(geglu, {{2048, 256, 0}, {2048, 1280, 0}, {2048, 256, 1}, {2048, 1280, 1}});
STRATA_BENCH(add, {{1 << 17}, {1 << 22}});
STRATA_BENCH(adamw, {{1 << 22}});
STRATA_BENCH(normals, {{4096}, {1 << 18}});

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
