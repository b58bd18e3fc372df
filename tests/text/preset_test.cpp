// The presets of published encoders, against the published config values and parameter counts.

#include "text/preset.hpp"

#include <gtest/gtest.h>

#include <map>

#include "core/error.hpp"
#include "golden.hpp"
#include "text/strategy.hpp"

namespace strata {
namespace {

TextConfig published(const std::string& name) {
  return TextConfig::from_json_file(golden_path("published/" + name + ".json"));
}

TEST(Presets, FitThePublishedConfigs) {
  EXPECT_GE(encoder_presets().size(), 12u);
  for (const EncoderPreset& preset : encoder_presets())
    EXPECT_EQ(preset.mismatch(published(preset.name)), "") << preset.name;
}

// The counts that the models' publishers state, from the config alone.
TEST(Presets, CountTheParameters) {
  const std::map<std::string, std::int64_t> counts{{"clip-vit-h-14", 354'032'640},
                                                   {"t5-v1_1-xxl", 4'762'310'656},
                                                   {"qwen2-1.5b", 1'543'714'304},
                                                   {"qwen2-7b", 7'615'616'512},
                                                   {"gte-qwen2-7b-instruct", 7'612'620'288},
                                                   {"mistral-7b-v0.1", 7'241'732'096},
                                                   {"mistral-7b-instruct-v0.1", 7'241'732'096},
                                                   {"sfr-embedding-2_r", 7'110'660'096},
                                                   {"llama3-8b", 8'030'261'248},
                                                   {"gemma2-2b", 2'614'341'888},
                                                   {"gemma2-9b", 9'241'705'984},
                                                   {"bge-multilingual-gemma2", 9'241'713'152}};
  for (const auto& [name, count] : counts)
    EXPECT_EQ(published_parameter_count(published(name)), count) << name;
  // Without lm_head, where there is one of its own.
  EXPECT_EQ(parameter_count(published("mistral-7b-v0.1")), 7'110'660'096);
  EXPECT_EQ(parameter_count(published("gemma2-9b")), 9'241'705'984);
  EXPECT_EQ(parameter_count(published("sd2-clip")), 340'387'840);
}

TEST(Presets, MakeThePapersRuns) {
  std::map<std::string, int> runs;
  for (const EncoderPreset& preset : encoder_presets())
    if (!preset.name.ends_with("v0.3"))
      for (const std::string& strategy : preset.strategies) {
        if (strategy != "pooled") Strategy::parse(strategy);
        ++runs[strategy];
      }
  const std::map<std::string, int> want{{"last", 12},   {"layer:-2", 1}, {"layer:15", 1},
                                        {"layer:0", 1}, {"avg", 2},      {"norm_avg", 8},
                                        {"pooled", 2}};
  EXPECT_EQ(runs, want);  // 27 in all
}

TEST(Presets, AreFoundByFolderOrName) {
  EXPECT_EQ(find_preset("auto", "/models/Mistral-7B-v0.1/")->name, "mistral-7b-v0.1");
  EXPECT_EQ(find_preset("auto", "/hub/models--google--gemma-2-9b/snapshots/33c193028431")->name,
            "gemma2-9b");
  EXPECT_EQ(find_preset("gte-qwen2-7b-instruct", "x")->attention, AttentionMode::bidirectional);
  EXPECT_FALSE(find_preset("auto", "/models/mine"));
  EXPECT_FALSE(find_preset("none", "/models/Mistral-7B-v0.1"));
  EXPECT_THROW(find_preset("gemma", "x"), Error);
}

TEST(Presets, SayAMismatch) {
  const TextConfig other = published("gemma2-9b");
  EXPECT_EQ(find_preset("bge-multilingual-gemma2", "")->mismatch(other),
            "vocabulary is 256000, not 256002");
  EXPECT_EQ(find_preset("llama3-8b", "")->mismatch(other), "model_type is gemma2, not llama");
  EXPECT_FALSE(fitting_preset("auto", "/models/gemma-2-2b", other));
  EXPECT_THROW(fitting_preset("gemma2-2b", "/models/mine", other), Error);
  const auto gte =
      fitting_preset("auto", "/m/gte-Qwen2-7B-instruct", published("gte-qwen2-7b-instruct"));
  ASSERT_TRUE(gte);
  const TextConfig config = published("gte-qwen2-7b-instruct");
  EXPECT_FALSE(is_causal(AttentionMode::automatic, gte, config));
  EXPECT_TRUE(is_causal(AttentionMode::causal, gte, config));
  EXPECT_TRUE(is_causal(AttentionMode::automatic, {}, config));
}

}  // namespace
}  // namespace strata
