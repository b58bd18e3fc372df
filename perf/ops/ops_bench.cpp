// Speed of every op of a training step at its real shapes, beside the peaks of this machine
// measured in the same process:
//   ops_bench [--benchmark_filter="sd2 conv.* dw"]        threads: OMP_NUM_THREADS
//   perf/ops/table RESULT.json     turns --benchmark_out=RESULT.json into a table
// "sd2" are the shapes of SD2's U-Net at 32x32 with 77 tokens and batch 4, "small" those of
// configs/models/small-unet at 16x16 with 24 tokens and batch 32. What an op works is what it says
// itself (kernels/op_check.hpp): operations, and the bytes of its tensors, each once. Counters:
// GFLOP/s, GB/s, share_of_peak = the time that the machine needs at its peaks, for arithmetic or
// for memory, whichever is longer, over the time taken; by_memory = 1 where it is memory. Tensors
// of a few megabytes stay in a cache between two calls: a share of memory may then exceed 1.

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "core/spans.hpp"
#include "kernels/ops.hpp"
#include "perf/peaks.hpp"

namespace strata {
namespace {

using Op = std::function<void(Exec&)>;

/// The tensors of one case, of its dtype unless said otherwise.
class Tensors {
 public:
  explicit Tensors(DType dtype) : type(dtype) {}

  Tensor random(DType dtype, Shape shape) {
    kept_.emplace_back(dtype, shape);
    const Tensor t = kept_.back();
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      const float value = static_cast<float>(engine_()) * 0x1p-30f - 1.0f;
      if (dtype == DType::bf16)
        t.as<bf16>()[i] = to_bf16(value);
      else
        t.as<float>()[i] = value;
    }
    return t;
  }
  Tensor random(Shape shape) { return random(type, shape); }
  Tensor wide(Shape shape) { return random(DType::f32, shape); }
  Tensor zeros(DType dtype, Shape shape) {
    kept_.push_back(Buffer(dtype, shape));
    std::memset(kept_.back().tensor().data, 0, kept_.back().tensor().bytes());
    return kept_.back();
  }
  Tensor offsets(std::int64_t batch, std::int64_t length) {
    kept_.emplace_back(DType::i64, Shape{batch + 1});
    for (std::int64_t b = 0; b <= batch; ++b) kept_.back().as<std::int64_t>()[b] = b * length;
    return kept_.back();
  }
  Tensor keep(Buffer buffer) {
    kept_.push_back(std::move(buffer));
    return kept_.back();
  }

  const DType type;

 private:
  std::minstd_rand engine_{1};
  std::vector<Buffer> kept_;
};

/// Operations and bytes that a call says it works.
spans::Event work_of(Exec& exec, const Op& op) {
  spans::start();
  op(exec);
  spans::Event sum{.kind = "op", .begin = 0, .end = 0};
  for (const spans::Lane& lane : spans::stop())
    for (const spans::Event& event : lane.events) {
      if (event.name.starts_with("reorder")) continue;  // once an update, not once a call
      sum.flops += event.flops;
      sum.bytes += event.bytes;
    }
  return sum;
}

/// The cases of one network.
class Cases {
 public:
  Cases(std::string network, DType type) : network_(std::move(network)), type_(type) {}

  void add(const std::string& name, std::function<Op(Tensors&)> make) const {
    const DType type = type_;
    const auto full = fmt::format("{} {} {}", network_, name, name_of(type));
    benchmark::RegisterBenchmark(full.c_str(),
                                 [type, make = std::move(make)](benchmark::State& state) {
                                   Tensors tensors(type);
                                   const Op op = make(tensors);
                                   Exec exec;
                                   op(exec);
                                   const spans::Event work = work_of(exec, op);
                                   double seconds = 0;
                                   for ([[maybe_unused]] auto _ : state) {
                                     const double once = seconds_of([&] { op(exec); });
                                     state.SetIterationTime(once);
                                     seconds += once;
                                   }
                                   seconds /= static_cast<double>(state.iterations());
                                   const double arithmetic = work.flops / flops_peak(type);
                                   const double memory = work.bytes / bytes_peak();
                                   state.counters["GFLOP/s"] = 1e-9 * work.flops / seconds;
                                   state.counters["GB/s"] = 1e-9 * work.bytes / seconds;
                                   state.counters["share_of_peak"] =
                                       std::max(arithmetic, memory) / seconds;
                                   state.counters["by_memory"] = memory > arithmetic;
                                 })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->MinTime(0.15);
  }

  void linear(std::int64_t m, std::int64_t n, std::int64_t k) const;
  void conv(std::int64_t batch, std::int64_t side, std::int64_t in, std::int64_t out,
            int stride = 1) const;
  void attention(std::int64_t batch, std::int64_t queries, std::int64_t keys, std::int64_t heads,
                 std::int64_t width) const;
  void group_norm(std::int64_t batch, std::int64_t side, std::int64_t channels,
                  std::int64_t groups) const;
  void transformer_rows(std::int64_t rows, std::int64_t channels) const;
  void image(std::int64_t batch, std::int64_t side, std::int64_t channels) const;
  void join(std::int64_t batch, std::int64_t side, std::int64_t a, std::int64_t b) const;
  void update(std::int64_t parameters) const;

 private:
  std::string network_;
  DType type_;
};

void Cases::linear(std::int64_t m, std::int64_t n, std::int64_t k) const {
  const auto shape = fmt::format("{}x{}x{}", m, n, k);
  add("linear forward " + shape, [=](Tensors& t) {
    const Tensor x = t.random({m, k}), w = t.random({n, k}), b = t.random({n});
    return [=, y = t.random({m, n})](Exec& exec) { ops::linear(exec, y, x, w, b); };
  });
  for (const bool weights : {false, true})
    add(fmt::format("linear {} {}", weights ? "dw" : "dx", shape), [=](Tensors& t) {
      const Tensor x = t.random({m, k}), w = t.random({n, k}), dy = t.random({m, n});
      const Tensor dx = weights ? Tensor{} : t.random({m, k});
      const Tensor dw = weights ? t.wide({n, k}) : Tensor{};
      return [=](Exec& exec) { ops::linear_backward(exec, dx, dw, {}, dy, x, w); };
    });
}

void Cases::conv(std::int64_t batch, std::int64_t side, std::int64_t in, std::int64_t out,
                 int stride) const {
  const auto shape = fmt::format("{}x{} {}->{}{}", side, side, in, out,
                                 stride > 1 ? fmt::format(" stride {}", stride) : "");
  const std::int64_t to = side / stride;
  const ops::Conv2dParams how{.stride = stride};
  add("conv forward " + shape, [=](Tensors& t) {
    const Tensor x = t.random({batch, side, side, in}), w = t.random({out, 3, 3, in});
    const Tensor y = t.random({batch, to, to, out}), b = t.random({out});
    return [=](Exec& exec) { ops::conv2d(exec, y, x, w, b, how); };
  });
  for (const bool weights : {false, true})
    add(fmt::format("conv {} {}", weights ? "dw" : "dx", shape), [=](Tensors& t) {
      const Tensor x = t.random({batch, side, side, in}), w = t.random({out, 3, 3, in});
      const Tensor dy = t.random({batch, to, to, out});
      const Tensor dx = weights ? Tensor{} : t.random(x.shape);
      const Tensor dw = weights ? t.wide({out, 3, 3, in}) : Tensor{};
      return [=](Exec& exec) { ops::conv2d_backward(exec, dx, dw, {}, dy, x, w, how); };
    });
}

void Cases::attention(std::int64_t batch, std::int64_t queries, std::int64_t keys,
                      std::int64_t heads, std::int64_t width) const {
  for (const bool backward : {false, true})
    add(fmt::format("attention {} {} queries {} keys {} heads of {}",
                    backward ? "backward" : "forward", queries, keys, heads, width),
        [=](Tensors& t) -> Op {
          const Shape q_shape{batch * queries, heads, width}, k_shape{batch * keys, heads, width};
          const Tensor q = t.random(q_shape), k = t.random(k_shape), v = t.random(k_shape);
          const Tensor o = t.random(q_shape), lse = t.wide({batch * queries, heads});
          const Tensor q_at = t.offsets(batch, queries), k_at = t.offsets(batch, keys);
          const ops::AttentionParams p{1.0f / std::sqrt(static_cast<float>(width)), false};
          if (!backward)
            return [=](Exec& exec) { ops::attention(exec, o, lse, q, k, v, q_at, k_at, p); };
          const Tensor dout = t.random(q_shape), dq = t.random(q_shape);
          const Tensor dk = t.random(k_shape), dv = t.random(k_shape);
          return [=](Exec& exec) {
            ops::attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, q_at, k_at, p);
          };
        });
}

void Cases::group_norm(std::int64_t batch, std::int64_t side, std::int64_t channels,
                       std::int64_t groups) const {
  for (const bool backward : {false, true})
    add(fmt::format("group_norm+silu {} {}x{} {}", backward ? "backward" : "forward", side, side,
                    channels),
        [=](Tensors& t) -> Op {
          const Tensor x = t.random({batch, side, side, channels}), y = t.random(x.shape);
          const Tensor w = t.random({channels}), b = t.random({channels});
          const Tensor stats = t.wide({batch, groups, 2});
          const auto silu = ops::Activation::silu;
          const int g = static_cast<int>(groups);
          const Op forward = [=](Exec& exec) {
            ops::group_norm(exec, y, stats, x, w, b, g, 1e-5f, silu);
          };
          if (!backward) return forward;
          Exec once;
          forward(once);
          const Tensor dx = t.random(x.shape), dw = t.wide({channels}), db = t.wide({channels});
          return [=](Exec& exec) {
            ops::group_norm_backward(exec, dx, dw, db, y, stats, x, w, b, g, silu);
          };
        });
}

/// Layer norm and gated unit of a transformer block.
void Cases::transformer_rows(std::int64_t rows, std::int64_t channels) const {
  const auto shape = fmt::format("{}x{}", rows, channels);
  for (const bool backward : {false, true})
    add(fmt::format("layer_norm {} {}", backward ? "backward" : "forward", shape),
        [=](Tensors& t) -> Op {
          const Tensor x = t.random({rows, channels}), y = t.random(x.shape);
          const Tensor w = t.random({channels}), b = t.random({channels});
          const Tensor stats = t.wide({rows, 2});
          const Op forward = [=](Exec& exec) { ops::layer_norm(exec, y, stats, x, w, b, 1e-5f); };
          if (!backward) return forward;
          Exec once;
          forward(once);
          const Tensor dx = t.random(x.shape), dw = t.wide({channels}), db = t.wide({channels});
          return [=](Exec& exec) { ops::layer_norm_backward(exec, dx, dw, db, y, stats, x, w); };
        });
  const std::int64_t inner = 4 * channels;
  const auto gate_shape = fmt::format("{}x{}", rows, inner);
  add("geglu forward " + gate_shape, [=](Tensors& t) {
    const Tensor h = t.random({rows, 2 * inner});
    return [=, y = t.random({rows, inner})](Exec& exec) { ops::geglu(exec, y, h); };
  });
  add("geglu backward " + gate_shape, [=](Tensors& t) {
    const Tensor h = t.random({rows, 2 * inner}), dy = t.random({rows, inner});
    return [=, dh = t.random(h.shape)](Exec& exec) { ops::geglu_backward(exec, dh, dy, h); };
  });
}

/// What goes over the images of a level.
void Cases::image(std::int64_t batch, std::int64_t side, std::int64_t channels) const {
  const auto shape = fmt::format("{}x{} {}", side, side, channels);
  const Shape whole{batch, side, side, channels};
  add("add " + shape, [=](Tensors& t) {
    const Tensor a = t.random(whole), b = t.random(whole);
    return [=, y = t.random(whole)](Exec& exec) { ops::add(exec, y, a, b); };
  });
  add("add_per_sample " + shape, [=](Tensors& t) {
    const Tensor x = t.random(whole), bias = t.random({batch, channels});
    return [=](Exec& exec) { ops::add_per_sample(exec, x, x, bias); };
  });
  add("add_per_sample backward " + shape, [=](Tensors& t) {
    const Tensor dy = t.random(whole), dbias = t.random({batch, channels});
    return [=](Exec& exec) { ops::add_per_sample_backward(exec, dbias, dy); };
  });
  add("upsample " + shape, [=](Tensors& t) {
    const Tensor x = t.random({batch, side / 2, side / 2, channels});
    return [=, y = t.random(whole)](Exec& exec) { ops::upsample_nearest(exec, y, x); };
  });
  add("upsample backward " + shape, [=](Tensors& t) {
    const Tensor dx = t.random({batch, side / 2, side / 2, channels});
    return [=, dy = t.random(whole)](Exec& exec) { ops::upsample_nearest_backward(exec, dx, dy); };
  });
}

void Cases::join(std::int64_t batch, std::int64_t side, std::int64_t a, std::int64_t b) const {
  const auto shape = fmt::format("{}x{} {}+{}", side, side, a, b);
  for (const bool backward : {false, true})
    add((backward ? "split " : "concat ") + shape, [=](Tensors& t) -> Op {
      const Tensor left = t.random({batch, side, side, a}),
                   right = t.random({batch, side, side, b});
      const Tensor both = t.random({batch, side, side, a + b});
      if (backward) return [=](Exec& exec) { ops::split(exec, left, right, both); };
      return [=](Exec& exec) { ops::concat(exec, both, left, right); };
    });
}

/// The optimizer, on a piece of the parameters that no cache holds.
void Cases::update(std::int64_t parameters) const {
  const Shape flat{parameters};
  add(fmt::format("adamw {}", parameters), [=](Tensors& t) {
    const Tensor master = t.wide(flat), m = t.wide(flat), v = t.zeros(DType::f32, flat);
    const Tensor grad = t.wide(flat), param = t.random(flat);
    const Tensor decision = t.keep(ops::decision_of({.adamw = {.lr = 1e-4}}));
    return [=](Exec& exec) { ops::adamw(exec, param, master, m, v, grad, {}, decision); };
  });
  add(fmt::format("gradient_stats {}", parameters), [=](Tensors& t) {
    constexpr std::int64_t section = 195328;  // a 64th of a bucket of 25 MB
    const Tensor grad = t.wide(flat), bad = t.zeros(DType::f64, {1});
    const Tensor squares = t.zeros(DType::f64, {(parameters + section - 1) / section});
    return [=](Exec& exec) { ops::gradient_stats(exec, squares, bad, grad, section); };
  });
  add(fmt::format("accumulate {}", parameters), [=](Tensors& t) {
    const Tensor a = t.wide(flat), b = t.wide(flat);
    return [=](Exec& exec) { ops::accumulate(exec, a, b); };
  });
  add(fmt::format("cast {}", parameters), [=](Tensors& t) {
    const Tensor x = t.wide(flat);
    return [=, y = t.random(flat)](Exec& exec) { ops::cast(exec, y, x); };
  });
  add(fmt::format("fill {}", parameters),
      [=](Tensors& t) { return [=, y = t.wide(flat)](Exec& exec) { ops::fill(exec, y, 0.0f); }; });
  add("normals 4x4096", [=](Tensors& t) {
    static const std::vector<PhiloxCounter> at(4, PhiloxCounter{1, 0, Purpose::noise});
    return [=, out = t.wide({4, 4096})](Exec& exec) { ops::normals(exec, out, {17}, at.data()); };
  });
}

/// A level of a U-Net: its side, channels and heads, and the inputs of its up stages.
struct Level {
  std::int64_t side, channels, heads;
  std::vector<std::int64_t> skips;  // joined to `from` in turn
  std::int64_t from;                // channels that come up from below
  bool attends;
};

void add_network(const Cases& cases, std::int64_t batch, std::int64_t tokens, std::int64_t context,
                 std::int64_t groups, const std::vector<Level>& levels) {
  const std::int64_t time = 4 * levels.front().channels;
  cases.linear(batch, time, levels.front().channels);
  cases.conv(batch, levels.front().side, 4, levels.front().channels);
  cases.conv(batch, levels.front().side, levels.front().channels, 4);
  for (const Level& level : levels) {
    const std::int64_t side = level.side, c = level.channels, rows = batch * side * side;
    cases.conv(batch, side, c, c);
    cases.group_norm(batch, side, c, groups);
    cases.image(batch, side, c);
    cases.linear(batch, c, time);
    if (side > levels.back().side) cases.conv(batch, side, c, c, 2);
    std::int64_t from = level.from;
    for (const std::int64_t skip : level.skips) {
      cases.join(batch, side, from, skip);
      cases.conv(batch, side, from + skip, c);
      cases.linear(rows, c, from + skip);
      cases.group_norm(batch, side, from + skip, groups);
      from = c;
    }
    if (!level.attends) continue;
    cases.linear(rows, c, c);
    cases.linear(rows, 8 * c, c);
    cases.linear(rows, c, 4 * c);
    cases.linear(batch * tokens, c, context);
    cases.transformer_rows(rows, c);
    cases.attention(batch, side * side, side * side, level.heads, c / level.heads);
    cases.attention(batch, side * side, tokens, level.heads, c / level.heads);
  }
}

void add_all() {
  const Cases sd2("sd2", DType::bf16);
  add_network(sd2, 4, 77, 1024, 32,
              {{32, 320, 5, {320, 320}, 640, true},
               {16, 640, 10, {640, 320}, 1280, true},
               {8, 1280, 20, {1280, 640}, 1280, true},
               {4, 1280, 20, {1280}, 1280, true}});
  sd2.update(std::int64_t{1} << 25);
  for (const DType type : {DType::bf16, DType::f32}) {
    const Cases small("small", type);
    add_network(small, 32, 24, 128, 32,
                {{16, 64, 2, {64}, 128, true},
                 {8, 128, 4, {64}, 128, true},
                 {4, 128, 4, {128}, 128, true}});
    small.update(std::int64_t{1} << 22);
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  strata::add_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
