// Generation against transformers, and what may not change a text: batch, threads, neighbours.

#include "model/text_generator.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "model/kv_cache.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

std::string golden(const std::string& name) {
  return std::string(STRATA_SOURCE_DIR) + "/tests/golden/text/generation/" + name;
}

std::vector<Ids> ragged(const SafetensorsFile& file, const char* ids, const char* offsets) {
  const Buffer values = file.read_i64(ids), at = file.read_i64(offsets);
  std::vector<Ids> texts;
  for (std::int64_t b = 0; b + 1 < at.tensor().numel(); ++b)
    texts.emplace_back(values.as<std::int64_t>() + at.as<std::int64_t>()[b],
                       values.as<std::int64_t>() + at.as<std::int64_t>()[b + 1]);
  return texts;
}

struct Golden {
  std::vector<Ids> prompts, texts;
  explicit Golden(const std::string& path) {
    const SafetensorsFile file(path);
    prompts = ragged(file, "input_ids", "input_offsets");
    texts = ragged(file, "output_ids", "offsets");
  }
};

/// The texts of the prompts, by their rows.
std::vector<Ids> generate(Exec& exec, const TextGenerator& generator,
                          const std::vector<Ids>& prompts, const GenerationOptions& options,
                          std::size_t first = 0) {
  std::vector<Ids> texts(prompts.size());
  std::size_t row = first;
  generator.generate(
      exec, options,
      [&]() -> std::optional<TextRequest> {
        if (row == prompts.size()) return std::nullopt;
        const std::size_t own = row++;
        return TextRequest{own, prompts[own]};
      },
      [&](std::uint64_t at, const Ids& ids) { texts[static_cast<std::size_t>(at)] = ids; });
  return texts;
}

GenerationOptions greedy(std::int64_t batch = 16) {
  return {{}, 40, batch, {}};
}
GenerationOptions sampled(std::int64_t batch = 16) {
  return {{1.0, 0.9, 7}, 30, batch, {}};
}

class Families : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Families, testing::Values("llama", "mistral", "qwen2", "gemma2"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Families, GreedyIsTransformers) {
  Exec exec(host_device, 1);
  const Golden want(golden(GetParam()) + "/texts.safetensors");
  const auto generator = TextGenerator::load(exec, golden(GetParam()), DType::f32);
  EXPECT_EQ(generate(exec, generator, want.prompts, greedy()), want.texts);
}

/// Every new token is the likeliest after all tokens before it, seen in one pass without a cache:
/// texts of up to five pages, past every window.
TEST_P(Families, TheCacheChangesNoToken) {
  Exec exec(host_device, 1);
  const Golden of(golden(GetParam()) + "/texts.safetensors");
  const auto generator = TextGenerator::load(exec, golden(GetParam()), DType::f32);
  const TextModel& model = generator.model();
  const ops::PackedWeight head = model.read_head(exec);
  GenerationOptions options = greedy();
  options.max_new_tokens = 200;
  const std::vector<Ids> prompts(of.prompts.begin() + 2, of.prompts.begin() + 6);
  const auto texts = generate(exec, generator, prompts, options);
  std::size_t longest = 0;
  for (std::size_t row = 0; row < prompts.size(); ++row) {
    std::vector<std::int64_t> ids(prompts[row].begin(), prompts[row].end());
    ids.insert(ids.end(), texts[row].begin(), texts[row].end());
    longest = std::max(longest, ids.size());
    const auto count = std::ssize(ids);
    std::int64_t offsets[] = {0, count};
    const std::int64_t padded = (count / ops::packed_rows + 1) * ops::packed_rows;
    const Buffer states = Buffer::zeros(DType::f32, {padded, model.config().width});
    model.forward(exec, view_of(ids.data(), {count}), view_of(offsets, {2}), true,
                  [&](std::int64_t state, Tensor hidden) {
                    if (state == model.config().layers)
                      std::memcpy(states.tensor().data, hidden.data, hidden.bytes());
                  });
    const Buffer logits(DType::f32, {padded, head.n});
    ops::linear(exec, logits, states, head, {});
    for (std::int64_t at = std::ssize(prompts[row]) - 1; at + 1 < count; ++at) {
      const float* first = logits.as<float>() + at * head.n;
      EXPECT_EQ(std::max_element(first, first + head.n) - first, ids[at + 1])
          << "row " << row << " position " << at + 1;
    }
  }
  EXPECT_GT(longest, 40u);
}

TEST_P(Families, NeitherBatchNorThreadsNorNeighboursChangeAText) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    Exec exec(host_device, 2), alone(host_device, 1);
    const Golden of(golden(GetParam()) + "/texts.safetensors");
    const auto generator = TextGenerator::load(exec, golden(GetParam()), compute);
    const auto lone = TextGenerator::load(alone, golden(GetParam()), compute);
    const auto texts = generate(exec, generator, of.prompts, sampled());
    EXPECT_EQ(generate(exec, generator, of.prompts, sampled(5)), texts);
    EXPECT_EQ(generate(exec, generator, of.prompts, sampled(100)), texts);
    EXPECT_EQ(generate(alone, lone, of.prompts, sampled(1)), texts);
    const auto tail = generate(exec, generator, of.prompts, sampled(), 10);
    for (std::size_t row = 10; row < texts.size(); ++row) EXPECT_EQ(tail[row], texts[row]);
    GenerationOptions other = sampled();
    other.sampling.seed = 8;
    EXPECT_NE(generate(exec, generator, of.prompts, other), texts);
  }
}

TEST(TextGenerator, TheMiniatureModelIsTransformers) {
  Exec exec;
  const Golden want(golden("miniature.safetensors"));
  const auto generator = TextGenerator::load(
      exec, std::string(STRATA_SOURCE_DIR) + "/data/miniature/encoder", DType::f32);
  EXPECT_EQ(generate(exec, generator, want.prompts, greedy()), want.texts);
}

TEST(TextGenerator, ATextEndsBeforeAStopIdAndAtItsLongest) {
  Exec exec;
  const Golden of(golden("qwen2/texts.safetensors"));
  const auto generator = TextGenerator::load(exec, golden("qwen2"), DType::f32);
  GenerationOptions options = greedy();
  options.stop = {of.texts[0][3], of.texts[1][5]};
  const auto texts = generate(exec, generator, of.prompts, options);
  for (std::size_t row = 0; row < texts.size(); ++row) {
    Ids want = of.texts[row];
    want.erase(std::find_if(
                   want.begin(), want.end(),
                   [&](std::int32_t id) { return id == options.stop[0] || id == options.stop[1]; }),
               want.end());
    EXPECT_EQ(texts[row], want) << row;
  }
  options = greedy();
  options.max_new_tokens = 1;
  for (const Ids& text : generate(exec, generator, of.prompts, options)) EXPECT_EQ(text.size(), 1u);
  EXPECT_TRUE(generate(exec, generator, {{}}, greedy()).front().empty());
}

TEST(TextGenerator, StopIdsComeFromEitherFile) {
  EXPECT_EQ(read_stop_ids(golden("llama")), (Ids{7, 50, 90}));  // config.json says 3
  EXPECT_EQ(read_stop_ids(golden("mistral")), (Ids{40}));
  EXPECT_EQ(read_stop_ids(golden("qwen2")), (Ids{}));
  EXPECT_EQ(read_stop_ids(golden("gemma2")).size(), 2u);
}

TEST(TextGenerator, ModelsWithoutAHeadAreRefusedByName) {
  Exec exec;
  const std::string encoders = std::string(STRATA_SOURCE_DIR) + "/tests/golden/text/encoders/";
  for (const auto& [folder, cause] :
       {std::pair{"t5", "a t5 encoder cannot generate"},
        {"clip", "encoder cannot generate"},
        {"mistral", "there is no lm_head.weight, and tie_word_embeddings"}}) {
    try {
      TextGenerator::load(exec, encoders + folder, DType::f32);
      ADD_FAILURE() << folder;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find(cause), std::string::npos) << error.what();
    }
  }
}

/// The code of the Error that a single prompt ends with.
Exit refusal(const Ids& prompt, const std::string& cause) {
  Exec exec;
  const auto generator = TextGenerator::load(exec, golden("llama"), DType::f32);
  try {
    generate(exec, generator, {prompt}, greedy());
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(cause), std::string::npos) << error.what();
    return error.code();
  }
  return Exit::ok;
}

TEST(TextGenerator, PromptsOutsideOfTheModelAreRefused) {
  EXPECT_EQ(refusal({3, 131}, "token id 131"), Exit::data);
  EXPECT_EQ(refusal({3, -1}, "token id -1"), Exit::data);
  EXPECT_EQ(refusal(Ids(TextGenerator::longest_prompt + 1, 5), "prompt 0 (from 0) has 32769"),
            Exit::data);
}

TEST(TextGenerator, StopIdsAreRead) {
  const std::string dir = testing::TempDir() + "/stops-" + std::to_string(::getpid());
  fs::create_directories(dir);
  const auto read = [&](const char* generation, const char* config) {
    std::ofstream(dir + "/generation_config.json") << generation;
    std::ofstream(dir + "/config.json") << config;
    return read_stop_ids(dir);
  };
  EXPECT_EQ(read("{}", "{}"), (Ids{}));
  EXPECT_EQ(read(R"({"eos_token_id": null})", R"({"eos_token_id": 4})"), (Ids{4}));
  EXPECT_EQ(read(R"({"eos_token_id": [5, 6]})", R"({"eos_token_id": 4})"), (Ids{5, 6}));
  EXPECT_EQ(read(R"({"eos_token_id": 16000000})", "{}"), (Ids{16000000}));
  for (const char* bad :
       {R"({"eos_token_id": "</s>"})", R"({"eos_token_id": []})", R"({"eos_token_id": [1, "2"]})",
        R"({"eos_token_id": -1})", R"({"eos_token_id": 1.5})", "[]", "{"}) {
    try {
      read(bad, "{}");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      EXPECT_NE(std::string(error.what()).find("generation_config.json"), std::string::npos);
    }
  }
  fs::remove_all(dir);
}

TEST(KvCache, PagesBehindTheWindowAndOfEndedTextsAreUsedAgain) {
  Exec exec;
  TextConfig config;
  config.kv_heads = 1;
  config.head_width = 8;
  config.windows = {100, 100};
  KvCache cache(config, DType::f32, 2);
  for (std::int64_t length = 1; length <= 5000; ++length) cache.grow(exec, 0, length);
  const std::size_t eight_pages = 2 * 2 * 8 * 64 * 8 * sizeof(float);
  EXPECT_EQ(cache.bytes(), eight_pages);  // the first pages that were made were enough
  cache.grow(exec, 1, 5000);              // as of a long prompt
  for (int i = 0; i < 50; ++i) {
    cache.release(1);
    cache.grow(exec, 1, 300);
  }
  EXPECT_EQ(cache.bytes(), eight_pages);

  config.windows = {0, 100};
  KvCache mixed(config, DType::f32, 1);
  mixed.grow(exec, 0, 64 * 20);
  EXPECT_GE(mixed.bytes(), eight_pages / 2 + eight_pages / 2 * 20 / 8);
}

// --- sampling -----------------------------------------------------------------------------------

/// Chi-square of `draws` tokens against probabilities; those of weight 0 must not occur.
double chi_square(const std::vector<float>& logits, const SamplingOptions& options, float softcap,
                  const std::vector<double>& probability) {
  constexpr int draws = 20'000;
  std::vector<int> seen(logits.size());
  for (int i = 0; i < draws; ++i)
    ++seen[next_token(logits, softcap, options, static_cast<std::uint64_t>(i % 100),
                      static_cast<std::uint32_t>(i / 100))];
  double sum = 0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double expected = probability[id] * draws;
    if (expected == 0)
      EXPECT_EQ(seen[id], 0) << id;
    else
      sum += (seen[id] - expected) * (seen[id] - expected) / expected;
  }
  return sum;
}

std::vector<double> softmax(const std::vector<double>& scores) {
  std::vector<double> p;
  double sum = 0;
  const double largest = *std::max_element(scores.begin(), scores.end());
  for (const double score : scores) sum += (p.emplace_back(std::exp(score - largest)));
  for (double& value : p) value /= sum;
  return p;
}

TEST(NextToken, DrawsFromTheSoftmax) {
  const std::vector<float> logits{0.5f, 1.5f, -1.0f, 2.0f, 0.0f};
  std::vector<double> scores;
  for (const float logit : logits) scores.push_back(logit / 0.7);
  // 4 degrees of freedom: above 23.5 once in 10,000 seeds.
  EXPECT_LT(chi_square(logits, {0.7, 1, 1}, 0, softmax(scores)), 23.5);
  for (double& score : scores) score = 1.5 * std::tanh(score * 0.7 / 1.5) / 0.7;
  EXPECT_LT(chi_square(logits, {0.7, 1, 2}, 1.5f, softmax(scores)), 23.5);
}

/// The cut of hopeless logits before the softcap's tanh takes none that could be drawn.
TEST(NextToken, TheSoftcapsCutLosesNothing) {
  for (const double temperature : {0.02, 0.2, 1.0, 50.0}) {
    const float softcap = 30;
    const auto step = static_cast<float>(temperature);  // one e-fold each, before the cap bends it
    std::vector<float> logits;
    for (int i = 0; i < 6; ++i) logits.push_back(20 - static_cast<float>(i) * step);
    for (const float saturated : {-3000.0f, -400.0f}) logits.push_back(saturated);
    std::vector<double> scores;
    for (const float logit : logits)
      scores.push_back(softcap * std::tanh(double{logit} / softcap) / temperature);
    std::vector<double> p = softmax(scores);
    for (double& value : p)
      if (value < 1e-30) value = 0;
    // At most 7 degrees of freedom: above 31.8 once in 22,000 seeds.
    EXPECT_LT(chi_square(logits, {temperature, 1, 5}, softcap, p), 31.8) << temperature;
  }
}

TEST(NextToken, NucleusKeepsTheFewestThatReachIt) {
  // Probabilities 0.1 0.4 0.2 0.3.
  const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  EXPECT_LT(chi_square(logits, {1, 0.8, 3}, 0, {0, 4.0 / 9, 2.0 / 9, 3.0 / 9}), 18.5);  // 2 degrees
  EXPECT_LT(chi_square(logits, {1, 0.65, 3}, 0, {0, 4.0 / 7, 0, 3.0 / 7}), 15.2);       // 1 degree
  EXPECT_EQ(chi_square(logits, {1, 0.3, 3}, 0, {0, 1, 0, 0}), 0);
  // Of equals the first.
  EXPECT_EQ(chi_square({0, 0, 0, 0}, {1, 0.25, 3}, 0, {1, 0, 0, 0}), 0);
}

TEST(NextToken, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(next_token(std::vector<float>{1, 5, 5, 2}, 0, {}, 0, 0), 1);
  EXPECT_EQ(next_token(std::vector<float>{1, 2, 3}, 30, {0.01, 1, 9}, 5, 6), 2);
  try {
    next_token(std::vector<float>{1, NAN, 3}, 0, {}, 4, 5);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::numerics);
  }
}

}  // namespace
}  // namespace strata
