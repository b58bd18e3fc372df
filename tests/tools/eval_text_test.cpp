// `strata eval text` and `strata eval encoder` as a user runs them.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "tests/tools/command_test.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class EvalText : public CommandTest {
 protected:
  static std::string golden(const std::string& name) {
    return std::string(STRATA_SOURCE_DIR) + "/tests/golden/text/" + name;
  }
  std::string text(const std::string& model, const std::string& more) const {
    return fmt::format("text --model '{}' --input '{}' --output '{}' {}", model,
                       golden("llama/captions.txt"), output(), more);
  }
};

TEST_F(EvalText, EncoderPrintsTheDifferenceOfEveryLayer) {
  for (const char* family : {"gemma2", "t5", "clip", "mistral"}) {
    const std::string model = golden(std::string("encoders/") + family);
    const Outcome run =
        eval(fmt::format("encoder --model '{}' --ref '{}/states.safetensors'", model, model));
    ASSERT_EQ(run.code, 0) << run.out;
    const auto json = nlohmann::json::parse(run.out);
    const SafetensorsFile reference(model + "/states.safetensors");
    ASSERT_EQ(json["layers"].size(),
              static_cast<std::size_t>(reference.entries().at("layers").shape[0]));
    EXPECT_LE(json["largest"].get<double>(), 2e-5) << family;
    EXPECT_EQ(json["largest"], *std::max_element(json["layers"].begin(), json["layers"].end()));
  }
  const Outcome other = eval(fmt::format("encoder --model '{}' --ref '{}/states.safetensors'",
                                         golden("encoders/gemma2"), golden("encoders/t5")));
  EXPECT_EQ(other.code, 65) << other.out;
}

TEST_F(EvalText, PresetsAreHeldAgainstTheFolder) {
  const std::string model = golden("llama");
  EXPECT_EQ(eval(text(model, "--preset none")).code, 0);
  EXPECT_EQ(eval(text(model, "--preset gpt-5")).code, 64);
  const Outcome wrong = eval(text(model, "--preset llama3-8b"));
  EXPECT_EQ(wrong.code, 65);
  EXPECT_NE(wrong.out.find("width is 48, not 4096"), std::string::npos) << wrong.out;
  // Named like a published folder, but another model: a warning, which eval keeps to itself.
  const std::string named = folder_ + "/Meta-Llama-3-8B";
  fs::copy(model, named);
  const Outcome run = eval(text(named, "--pooled"));
  EXPECT_EQ(run.code, 0) << run.out;
  EXPECT_EQ(run.out, "");
}

TEST_F(EvalText, DescribeNeedsTheConfigAlone) {
  fs::copy_file(golden("published/mistral-7b-v0.1.json"), folder_ + "/config.json");
  const Outcome run = eval(fmt::format("text --describe --model '{}'", folder_));
  ASSERT_EQ(run.code, 0) << run.out;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["parameters"], 7'241'732'096);
  EXPECT_EQ(json["encoder_parameters"], 7'110'660'096);
}

TEST_F(EvalText, LimitsBeyondTheModelsPositionsAreRefused) {
  // The golden CLIP has 40 positions; any tokenizer will do.
  const std::string model = folder_ + "/clip";
  fs::copy(golden("encoders/clip"), model);
  auto tokenizer = nlohmann::json::parse(std::ifstream(golden("gpt2/tokenizer.json")));
  std::ofstream(model + "/tokenizer.json") << tokenizer.dump();
  const Outcome tokens = eval(text(model, "--max-tokens 41"));
  EXPECT_EQ(tokens.code, 64) << tokens.out;
  EXPECT_NE(tokens.out.find("positions for 40"), std::string::npos) << tokens.out;
  EXPECT_EQ(eval(text(model, "--max-tokens 0")).code, 64);
}

}  // namespace
}  // namespace strata
