// Speed of the ops on a GPU as one JSON document:
//   gpu_bench [FILTER]        runs the cases whose name holds FILTER
// Memory-bound ops: GB/s of what must be moved at least, and its share of a plain copy's; the rest:
// TFLOP/s and its share of the fastest product of 8192 x 8192 matrices; both ceilings are measured
// in the same run. Shapes are those of SD2's U-Net at 64 images of 32 x 32 latents. Times come from
// CUDA events, best of many; the second-level cache is overwritten before each.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/transfer.hpp"
#include "kernels/ops.hpp"

namespace strata {
namespace {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail(Exit::internal, "{}: {}", call, cudaGetErrorString(status));
}

/// In the legacy default stream, which waits for every op called before and holds back those after.
class Clock {
 public:
  Clock() {
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Clock() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  template <class F>
  double seconds(F f) {
    check(cudaEventRecord(start_, cudaStreamLegacy), "cudaEventRecord");
    f();
    check(cudaEventRecord(stop_, cudaStreamLegacy), "cudaEventRecord");
    check(cudaEventSynchronize(stop_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

class Bench {
 public:
  explicit Bench(std::string_view filter) : filter_(filter), exec_(cuda_device()) {
    flush_ = Buffer(DType::f32, {std::int64_t{64} << 20}, exec_.device());
    bytes_peak_ = measure_copy();
    flops_peak_ = measure_product();
  }

  /// Normal noise of a tenth, so that nothing overflows however often it is added up.
  Tensor random(DType dtype, Shape shape) {
    const Tensor wide = exec_.empty(DType::f32, shape), t = exec_.empty(dtype, shape);
    const PhiloxCounter at{count_++, 0, Purpose::noise};
    ops::normals(exec_, wide.reshape({1, wide.numel()}), {1}, &at);
    ops::scale(exec_, t, wide, 0.1f);
    return t;
  }
  Tensor random(Shape shape) { return random(DType::bf16, shape); }

  void stream(const std::string& name, double bytes, const std::function<void(Exec&)>& op) {
    add(name, bytes, "GB/s", 1e-9, "share_of_copy", bytes_peak_, op);
  }
  void compute(const std::string& name, double flops, const std::function<void(Exec&)>& op) {
    add(name, flops, "TFLOP/s", 1e-12, "share_of_product", flops_peak_, op);
  }
  Exec& exec() { return exec_; }
  nlohmann::json report() const {
    return {{"copy_GB/s", bytes_peak_ * 1e-9},
            {"product_TFLOP/s", flops_peak_ * 1e-12},
            {"cases", cases_}};
  }
  bool has_failed() const { return has_failed_; }

 private:
  double best(const std::function<void(Exec&)>& op) {
    for (int i = 0; i < 3; ++i) op(exec_);
    double least = 1e9;
    for (int i = 0; i < 20; ++i) {
      ops::fill(exec_, flush_, static_cast<float>(i));
      least = std::min(least, clock_.seconds([&] { op(exec_); }));
    }
    return least;
  }
  double measure_copy() {
    const ArenaScope scope(exec_.arena);
    const std::int64_t bytes = std::int64_t{1} << 30;
    const Tensor from = exec_.empty(DType::u8, {bytes}), to = exec_.empty(DType::u8, {bytes});
    const double seconds = best([&](Exec&) {
      check(cudaMemcpyAsync(to.data, from.data, from.bytes(), cudaMemcpyDeviceToDevice,
                            cudaStreamLegacy),
            "cudaMemcpyAsync");
    });
    return 2.0 * static_cast<double>(bytes) / seconds;
  }
  double measure_product() {
    const ArenaScope scope(exec_.arena);
    constexpr std::int64_t n = 8192;
    const Tensor x = random({n, n}), w = random({n, n}), y = random({n, n});
    return 2.0 * n * n * n / best([&](Exec& exec) { ops::linear(exec, y, x, w); });
  }
  void add(const std::string& name, double work, const char* unit, double factor, const char* share,
           double peak, const std::function<void(Exec&)>& op) {
    if (name.find(filter_) == std::string::npos) return;
    try {
      const double seconds = best(op);
      cases_.push_back({{"name", name},
                        {"us", seconds * 1e6},
                        {unit, work / seconds * factor},
                        {share, work / seconds / peak}});
    } catch (const Error& error) {  // the others are measured all the same
      cases_.push_back({{"name", name}, {"error", error.what()}});
      has_failed_ = true;
    }
  }

  std::string filter_;
  Exec exec_;
  Clock clock_;
  Buffer flush_;
  double bytes_peak_ = 0, flops_peak_ = 0;
  std::uint64_t count_ = 0;
  nlohmann::json cases_ = nlohmann::json::array();
  bool has_failed_ = false;
};

struct Level {
  std::int64_t side, channels;
};
constexpr Level levels[] = {{32, 320}, {16, 640}, {8, 1280}};
constexpr std::int64_t batch = 64;

void norms(Bench& bench, const Level& l) {
  const ArenaScope scope(bench.exec().arena);
  const std::string at = fmt::format(" {}x{}x{}", l.side, l.side, l.channels);
  const Shape shape{batch, l.side, l.side, l.channels};
  const Shape rows{batch * l.side * l.side, l.channels};
  const Tensor x = bench.random(shape), y = bench.random(shape), dy = bench.random(shape);
  const Tensor w = bench.random({l.channels}), b = bench.random({l.channels});
  const Tensor dw = bench.random(DType::f32, {l.channels}),
               db = bench.random(DType::f32, {l.channels});
  const Tensor group = bench.random(DType::f32, {batch, 32, 2});
  const Tensor row = bench.random(DType::f32, {rows[0], 2});
  const auto bytes = static_cast<double>(x.bytes());
  const auto silu = ops::Activation::silu;
  // Statistics must be known before the first element can be stored: three passes, and five.
  bench.stream("group_norm silu" + at, 3 * bytes,
               [=](Exec& exec) { ops::group_norm(exec, y, group, x, w, b, 32, 1e-5f, silu); });
  bench.stream("group_norm silu backward" + at, 5 * bytes, [=](Exec& exec) {
    ops::group_norm_backward(exec, y, dw, db, dy, group, x, w, b, 32, silu);
  });
  const auto as_rows = [&](Tensor t) { return t.reshape(rows); };
  bench.stream("layer_norm" + at, 2 * bytes, [=](Exec& exec) {
    ops::layer_norm(exec, as_rows(y), row, as_rows(x), w, b, 1e-5f);
  });
  bench.stream("layer_norm backward" + at, 3 * bytes, [=](Exec& exec) {
    ops::layer_norm_backward(exec, as_rows(y), dw, db, as_rows(dy), row, as_rows(x), w);
  });
  bench.stream("add" + at, 3 * bytes, [=](Exec& exec) { ops::add(exec, y, x, dy); });
}

void gates(Bench& bench, const Level& l) {
  const ArenaScope scope(bench.exec().arena);
  const std::string at = fmt::format(" {}x{}x{}", l.side, l.side, l.channels);
  const std::int64_t m = batch * l.side * l.side, f = 4 * l.channels;
  const Tensor h = bench.random({m, 2 * f}), dh = bench.random({m, 2 * f}),
               y = bench.random({m, f});
  const auto bytes = static_cast<double>(y.bytes());
  bench.stream("geglu" + at, 3 * bytes, [=](Exec& exec) { ops::geglu(exec, y, h); });
  bench.stream("geglu backward" + at, 5 * bytes,
               [=](Exec& exec) { ops::geglu_backward(exec, dh, y, h); });
}

void products(Bench& bench, const Level& l) {
  const ArenaScope scope(bench.exec().arena);
  const std::string at = fmt::format(" {}x{}x{}", l.side, l.side, l.channels);
  const Shape shape{batch, l.side, l.side, l.channels};
  const std::int64_t c = l.channels, m = batch * l.side * l.side;
  const Tensor x = bench.random(shape), y = bench.random(shape), bias = bench.random({c});
  const Tensor w = bench.random({c, 3, 3, c}), dw = bench.random(DType::f32, {c, 3, 3, c});
  const auto taps = 18.0 * static_cast<double>(m * c * c);
  bench.compute("conv2d" + at, taps, [=](Exec& exec) { ops::conv2d(exec, y, x, w, bias, {}); });
  bench.compute("conv2d input gradient" + at, taps,
                [=](Exec& exec) { ops::conv2d_backward(exec, x, {}, {}, y, x, w, {}); });
  bench.compute("conv2d weight gradient" + at, taps,
                [=](Exec& exec) { ops::conv2d_backward(exec, {}, dw, {}, y, x, w, {}); });
  const Tensor square = bench.random({c, c}), dsquare = bench.random(DType::f32, {c, c});
  const auto once = 2.0 * static_cast<double>(m * c * c);
  bench.compute("linear" + at, once, [=](Exec& exec) { ops::linear(exec, y, x, square, bias); });
  bench.compute("linear backward" + at, 2 * once,
                [=](Exec& exec) { ops::linear_backward(exec, x, dsquare, {}, y, y, square); });
}

void attention(Bench& bench, const Level& l, std::int64_t keys) {
  const ArenaScope scope(bench.exec().arena);
  const std::int64_t tokens = l.side * l.side, heads = l.channels / 64;
  std::vector<std::int64_t> q_at, k_at;
  for (std::int64_t b = 0; b <= batch; ++b) {
    q_at.push_back(b * tokens);
    // Texts of different lengths; as many keys as tokens is self-attention.
    k_at.push_back(b == 0 ? 0 : k_at.back() + (keys == tokens ? keys : keys - b % 7));
  }
  const Tensor q_offsets = view_of(q_at.data(), {batch + 1});
  const Tensor k_offsets = view_of(k_at.data(), {batch + 1});
  const Shape q_shape{q_at.back(), heads, 64}, k_shape{k_at.back(), heads, 64};
  const Tensor q = bench.random(q_shape), k = bench.random(k_shape), v = bench.random(k_shape);
  const Tensor o = bench.random(q_shape), dq = bench.random(q_shape), dout = bench.random(q_shape);
  const Tensor dk = bench.random(k_shape), dv = bench.random(k_shape);
  const Tensor lse = bench.random(DType::f32, {q_at.back(), heads});
  const ops::AttentionParams p{.scale = 0.125f};
  const auto flops = 4.0 * static_cast<double>(tokens * k_at.back() * heads * 64);
  const std::string at = fmt::format(" {} tokens {} keys {} heads", tokens, keys, heads);
  bench.compute("attention" + at, flops, [=](Exec& exec) {
    ops::attention(exec, o, lse, q, k, v, q_offsets, k_offsets, p);
  });
  bench.compute("attention backward" + at, 2.5 * flops, [=](Exec& exec) {
    ops::attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, q_offsets, k_offsets, p);
  });
}

void optimizer(Bench& bench) {
  const ArenaScope scope(bench.exec().arena);
  const std::int64_t n = std::int64_t{1} << 26;
  const auto f32 = [&] { return bench.random(DType::f32, {n}); };
  const Tensor master = f32(), m = f32(), v = f32(), grad = f32(), ema = f32();
  ops::fill(bench.exec(), v, 0.01f);
  const Tensor param = bench.random({n});
  const double elements = static_cast<double>(n);
  const Tensor decision =
      on_device(bench.exec(), ops::decision_of({.adamw = {.lr = 1e-4}, .ema_decay = 0.999f}));
  bench.stream("adamw", 30 * elements,
               [=](Exec& exec) { ops::adamw(exec, param, master, m, v, grad, {}, decision); });
  bench.stream("adamw ema", 38 * elements,
               [=](Exec& exec) { ops::adamw(exec, param, master, m, v, grad, ema, decision); });
  const Tensor squares = bench.exec().empty(DType::f64, {64});
  const Tensor non_finite = bench.exec().empty(DType::f64, {1});
  bench.stream("gradient_stats", 4 * elements,
               [=](Exec& exec) { ops::gradient_stats(exec, squares, non_finite, grad, n / 64); });
}

int run(std::string_view filter) {
  Bench bench(filter);
  for (const Level& level : levels) {
    norms(bench, level);
    gates(bench, level);
    products(bench, level);
    attention(bench, level, level.side * level.side);
    attention(bench, level, 77);
  }
  optimizer(bench);
  fmt::print("{}\n", bench.report().dump(1));
  return bench.has_failed() ? 1 : 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  try {
    return strata::run(argc > 1 ? argv[1] : "");
  } catch (const strata::Error& error) {
    fmt::print(stderr, "gpu_bench: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
