// Our side of perf/peers/text_encoding.py: encodes captions as `strata cache text` does, all kinds
// of strategies out of one pass, each time a line comes in, and answers with the seconds it took,
// of the clock and of the processor.
//   text_encoding MODEL TEXTS.safetensors [BATCH_TOKENS]        threads: OMP_NUM_THREADS
// TEXTS holds input_ids (T) and offsets (n+1), i64.

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "text/batch_order.hpp"
#include "text/text_encoder.hpp"

namespace strata {
namespace {

/// One batch: its ids and where each caption's begin (n+1).
struct Texts {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets{0};
};

/// The batches into which `strata cache text` would cut the captions.
std::vector<Texts> read_batches(const std::string& path, std::int64_t tokens) {
  const SafetensorsFile file(path);
  const Buffer ids = file.read_i64("input_ids"), offsets = file.read_i64("offsets");
  const auto *id = ids.as<std::int64_t>(), *at = offsets.as<std::int64_t>();
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i + 1 < offsets.tensor().numel(); ++i)
    lengths.push_back(at[i + 1] - at[i]);
  std::vector<Texts> batches;
  for (const std::int64_t i : batch_order(lengths, tokens)) {
    if (batches.empty() || batches.back().offsets.back() + lengths[i] > tokens)
      batches.emplace_back();
    Texts& batch = batches.back();
    batch.ids.insert(batch.ids.end(), id + at[i], id + at[i + 1]);
    batch.offsets.push_back(std::ssize(batch.ids));
  }
  return batches;
}

void race(const std::string& model_dir, const std::string& texts, std::int64_t tokens) {
  Exec exec;
  const TextModel model = TextModel::load(exec, model_dir, DType::bf16);
  const std::vector<Texts> batches = read_batches(texts, tokens);
  EncodeOptions options;
  options.strategies = {"last", "layer:4", "avg", "norm_avg"};
  options.pooled = true;
  options.batch_tokens = tokens;
  for (std::string line; std::getline(std::cin, line);) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t busy = std::clock();
    exec.for_each_task(std::ssize(batches), [&](Exec& one, std::int64_t index) {
      const Texts& batch = batches[static_cast<std::size_t>(index)];
      encode_ids(one, model, batch.ids, batch.offsets, true, options);
    });
    const double processor = static_cast<double>(std::clock() - busy) / CLOCKS_PER_SEC;
    const auto end = std::chrono::steady_clock::now();
    fmt::print("[{:.6f}, {:.6f}]\n", std::chrono::duration<double>(end - begin).count(), processor);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    fmt::print(stderr, "usage: text_encoding MODEL TEXTS.safetensors [BATCH_TOKENS]\n");
    return 64;
  }
  try {
    strata::race(argv[1], argv[2], argc > 3 ? std::stoll(argv[3]) : strata::batch_tokens);
    return 0;
  } catch (const strata::Error& error) {
    fmt::print(stderr, "strata: error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
