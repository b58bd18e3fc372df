// Speed of the ops on a GPU as one JSON document:
//   gpu_bench [FILTER [SECONDS]]     the cases whose name holds FILTER; none begins after SECONDS
// Memory-bound ops: GB/s of what must be moved at least, and its share of a plain copy's; the rest:
// TFLOP/s and its share of the fastest product of 8192 x 8192 matrices; both ceilings are measured
// in the same run. Shapes are those of SD2's U-Net at 64 images of 32 x 32 latents, and of a 7B
// text model. Times come from CUDA events in the ops' own stream, best of many; the second-level
// cache is overwritten before each, which also gives the host time to call what is measured.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/transfer.hpp"
#include "kernels/cuda/backend.hpp"

namespace strata {
namespace {

class Clock {
 public:
  Clock() {
    STRATA_CUDA(cudaEventCreate(&start_));
    STRATA_CUDA(cudaEventCreate(&stop_));
  }
  ~Clock() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  template <class F>
  double seconds(cudaStream_t stream, F f) {
    STRATA_CUDA(cudaEventRecord(start_, stream));
    f();
    STRATA_CUDA(cudaEventRecord(stop_, stream));
    STRATA_CUDA(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    STRATA_CUDA(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

class Bench {
 public:
  Bench(std::string_view filter, double seconds)
      : filter_(filter), seconds_(seconds), exec_(cuda_device()) {
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
      least = std::min(least, clock_.seconds(stream_of_ops(), [&] { op(exec_); }));
    }
    return least;
  }
  cudaStream_t stream_of_ops() { return static_cast<cuda::CudaBackend&>(exec_.backend()).stream(); }
  double measure_copy() {
    const ArenaScope scope(exec_.arena);
    const std::int64_t bytes = std::int64_t{1} << 30;
    const Tensor from = exec_.empty(DType::u8, {bytes}), to = exec_.empty(DType::u8, {bytes});
    const double seconds = best([&](Exec& exec) { exec.copy(to.data, from.data, from.bytes()); });
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
    const std::chrono::duration<double> since_start = std::chrono::steady_clock::now() - start_;
    if (since_start.count() > seconds_) {
      cases_.push_back({{"name", name}, {"skipped", "the time is over"}});
      return;
    }
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
  double seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
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

/// Ops that only move elements, and sums over pixels.
void moves(Bench& bench, const Level& l) {
  const ArenaScope scope(bench.exec().arena);
  const std::string at = fmt::format(" {}x{}x{}", l.side, l.side, l.channels);
  const Shape shape{batch, l.side, l.side, l.channels};
  const Tensor x = bench.random(shape), skip = bench.random(shape), y = bench.random(shape);
  const Tensor both = bench.random({batch, l.side, l.side, 2 * l.channels});
  const Tensor small = bench.random({batch, l.side / 2, l.side / 2, l.channels});
  const Tensor bias = bench.random({batch, l.channels});
  const auto bytes = static_cast<double>(x.bytes());
  bench.stream("concat" + at, 4 * bytes, [=](Exec& exec) { ops::concat(exec, both, x, skip); });
  bench.stream("split" + at, 4 * bytes, [=](Exec& exec) { ops::split(exec, x, skip, both); });
  bench.stream("upsample" + at, 1.25 * bytes,
               [=](Exec& exec) { ops::upsample_nearest(exec, y, small); });
  bench.stream("upsample backward" + at, 1.25 * bytes,
               [=](Exec& exec) { ops::upsample_nearest_backward(exec, small, y); });
  bench.stream("add_per_sample" + at, 2 * bytes,
               [=](Exec& exec) { ops::add_per_sample(exec, y, x, bias); });
  bench.stream("add_per_sample backward" + at, bytes,
               [=](Exec& exec) { ops::add_per_sample_backward(exec, bias, y); });
  bench.stream("silu" + at, 2 * bytes, [=](Exec& exec) { ops::silu(exec, y, x); });
  bench.stream("silu backward" + at, 3 * bytes,
               [=](Exec& exec) { ops::silu_backward(exec, y, skip, x); });
}

/// What a 7B text model is made of beside products: 8192 rows of 32 heads of 128, 14336 between.
void text_model(Bench& bench) {
  const ArenaScope scope(bench.exec().arena);
  constexpr std::int64_t rows = 8192, heads = 32, width = 4096, between = 14336, vocabulary = 32000;
  const Tensor x = bench.random({rows, width}), y = bench.random({rows, width});
  const Tensor w = bench.random({width}), sum = bench.random(DType::f32, {rows, width});
  const auto bytes = static_cast<double>(x.bytes());
  bench.stream("rms_norm", 2 * bytes, [=](Exec& exec) { ops::rms_norm(exec, y, x, w, 1e-5f); });
  for (const bool normalised : {false, true})
    bench.stream(normalised ? "accumulate_layer normalised" : "accumulate_layer", 5 * bytes,
                 [=](Exec& exec) { ops::accumulate_layer(exec, sum, x, normalised); });
  bench.stream("cast f32 to bf16", 3 * bytes, [=](Exec& exec) { ops::cast(exec, y, sum); });
  bench.stream("scale f32", 4 * bytes, [=](Exec& exec) { ops::scale(exec, sum, sum, 0.999f); });
  std::vector<std::int64_t> ids(rows), places(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    ids[i] = i * 7919 % vocabulary;
    places[i] = i % 200;
  }
  const Tensor id = on_device(bench.exec(), view_of(ids.data(), {rows}));
  const Tensor place = on_device(bench.exec(), view_of(places.data(), {rows}));
  const Tensor table = bench.random({vocabulary, width});
  const Tensor frequencies = bench.random(DType::f32, {64});
  bench.stream("embedding", 2 * bytes, [=](Exec& exec) { ops::embedding(exec, y, table, id); });
  bench.stream("rope", 2 * bytes, [=](Exec& exec) {
    ops::rope(exec, y.reshape({rows, heads, width / heads}), place, frequencies);
  });
  const Tensor gate = bench.random({rows, between}), up = bench.random({rows, between});
  const Tensor gated = bench.random({rows, between});
  bench.stream("gated silu", 3 * static_cast<double>(gate.bytes()),
               [=](Exec& exec) { ops::gated(exec, gated, gate, up, ops::Activation::silu); });
}

/// Gemma 2's attention, which no vendor's kernel knows: 16 heads of 256, capped scores.
void capped_attention(Bench& bench) {
  const ArenaScope scope(bench.exec().arena);
  constexpr std::int64_t texts = 32, tokens = 256, heads = 16, key_heads = 8, width = 256;
  std::vector<std::int64_t> at;
  for (std::int64_t b = 0; b <= texts; ++b) at.push_back(b * tokens);
  const Tensor offsets = view_of(at.data(), {texts + 1});
  const Tensor q = bench.random({texts * tokens, heads, width}), o = bench.random(q.shape);
  const Tensor k = bench.random({texts * tokens, key_heads, width}), v = bench.random(k.shape);
  const ops::AttentionParams p{.scale = 0.0625f, .causal = true, .softcap = 50};
  // Half of the scores are seen.
  bench.compute("attention capped", 2.0 * texts * tokens * tokens * heads * width,
                [=](Exec& exec) { ops::attention(exec, o, {}, q, k, v, offsets, offsets, p); });
}

/// As many latents as make the calls themselves small beside the work.
void diffusion(Bench& bench) {
  const ArenaScope scope(bench.exec().arena);
  constexpr std::int64_t samples = 1024;
  const Shape shape{samples, 4, 64, 64}, pixels{samples, 64, 64, 4};
  const auto f32 = [&](Shape of) { return bench.random(DType::f32, of); };
  const Tensor x = f32(shape), noise = f32(shape), target = f32(shape);
  const Tensor moments = f32({samples, 8, 64, 64}), y = bench.random(shape);
  const Tensor gradient = bench.random(shape), turned = bench.random(pixels);
  const Tensor a = f32({samples}), s = f32({samples}), weight = f32({samples});
  const Tensor loss = f32({samples});
  const auto elements = static_cast<double>(x.numel());
  const std::vector<PhiloxCounter> counters(samples, PhiloxCounter{1, 0, Purpose::noise});
  bench.stream("normals", 4 * elements,
               [=](Exec& exec) { ops::normals(exec, x, {1}, counters.data()); });
  bench.stream("draw_posterior", 16 * elements,
               [=](Exec& exec) { ops::draw_posterior(exec, x, moments, noise); });
  bench.stream("add_noise", 10 * elements,
               [=](Exec& exec) { ops::add_noise(exec, y, x, noise, a, s); });
  bench.stream("mse_loss", 8 * elements,
               [=](Exec& exec) { ops::mse_loss(exec, loss, gradient, y, target, weight, 1.0f); });
  bench.stream("nchw_to_nhwc", 4 * elements,
               [=](Exec& exec) { ops::nchw_to_nhwc(exec, turned, y); });
  bench.stream("nhwc_to_nchw", 4 * elements,
               [=](Exec& exec) { ops::nhwc_to_nchw(exec, y, turned); });
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

int run(std::string_view filter, double seconds) {
  Bench bench(filter, seconds);
  for (const Level& level : levels) {
    norms(bench, level);
    gates(bench, level);
    products(bench, level);
    attention(bench, level, level.side * level.side);
    attention(bench, level, 77);
    moves(bench, level);
  }
  optimizer(bench);
  text_model(bench);
  capped_attention(bench);
  diffusion(bench);
  fmt::print("{}\n", bench.report().dump(1));
  return bench.has_failed() ? 1 : 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  try {
    const double forever = std::numeric_limits<double>::infinity();
    return strata::run(argc > 1 ? argv[1] : "", argc > 2 ? std::atof(argv[2]) : forever);
  } catch (const strata::Error& error) {
    fmt::print(stderr, "gpu_bench: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
