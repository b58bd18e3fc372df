// Text models at their real width, one layer of them:
//   text_bench [--benchmark_filter=...]        threads: OMP_NUM_THREADS
// 64 captions of 5 to 200 tokens through one layer with random weights, in bf16. Counters: real
// tokens a second, GFLOP/s of the real tokens alone (rows that fill the last block are a cost), and
// their share of the bf16 peak of this process.

#include <benchmark/benchmark.h>

#include <random>

#include "perf/peaks.hpp"
#include "perf/text/random_model.hpp"

namespace strata {
namespace {

constexpr const char* gemma2_9b = R"({"model_type": "gemma2", "vocab_size": 1000,
  "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 1,
  "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
  "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 10000.0})";

/// Multiply-adds, twice, of one layer: its matrices, and the scores and sums of causal attention.
double layer_flops(const TextConfig& c, const std::vector<std::int64_t>& offsets) {
  const double queries = static_cast<double>(c.heads * c.head_width);
  const double keys = static_cast<double>(c.kv_heads * c.head_width);
  const double width = static_cast<double>(c.width), mlp = static_cast<double>(c.feed_forward);
  double seen = 0;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const auto length = static_cast<double>(offsets[i + 1] - offsets[i]);
    seen += length * (length + 1) / 2;
  }
  const double matrices = width * (2 * queries + 2 * keys + 3 * mlp);
  return 2 * matrices * static_cast<double>(offsets.back()) + 4 * queries * seen;
}

void one_layer(benchmark::State& state, const char* config) {
  const RandomModel files(config);
  Exec exec;
  const TextModel model = TextModel::load(exec, files.dir(), DType::bf16);
  std::mt19937 engine(17);
  std::vector<std::int64_t> offsets{0};
  for (int i = 0; i < 64; ++i) offsets.push_back(offsets.back() + 5 + engine() % 196);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(offsets.back()));
  for (auto& id : ids) id = engine() % 1000;
  const Tensor id = view_of(ids.data(), {offsets.back()});
  const Tensor at = view_of(offsets.data(), {65});
  const auto run = [&] { model.forward(exec, id, at, true, [](std::int64_t, Tensor) {}); };
  run();
  double seconds = 0;
  for ([[maybe_unused]] auto _ : state) {
    const double once = seconds_of(run);
    state.SetIterationTime(once);
    seconds += once;
  }
  seconds /= static_cast<double>(state.iterations());
  const double rate = layer_flops(model.config(), offsets) / seconds;
  state.counters["tokens/s"] = static_cast<double>(offsets.back()) / seconds;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["share_of_bf16_peak"] = rate / flops_peak(DType::bf16);
}

BENCHMARK_CAPTURE(one_layer, mistral_7b, mistral_7b)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(one_layer, gemma2_9b, gemma2_9b)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
