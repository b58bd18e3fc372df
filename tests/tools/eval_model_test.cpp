// `strata eval unet`, `vae-encode` and `vae-decode` as a user runs them.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "tests/model/golden.hpp"

namespace strata::test {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int code;
  std::string out;  // stdout and stderr together
};

class EvalModel : public testing::Test {
 protected:
  EvalModel() {
    std::string pattern = (fs::temp_directory_path() / "strata-eval-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
  }
  ~EvalModel() override { fs::remove_all(folder_); }

  Outcome eval(const std::string& arguments) const {
    const std::string command =
        fmt::format("timeout 120 '{}' eval {} 2>&1", STRATA_BINARY, arguments);
    std::FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) throw std::runtime_error("popen");
    Outcome run{};
    char part[4096];
    while (const std::size_t n = fread(part, 1, sizeof part, pipe)) run.out.append(part, n);
    const int status = pclose(pipe);
    run.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return run;
  }
  std::string output() const { return folder_ + "/out.safetensors"; }
  std::string files(const std::string& model) const {
    return fmt::format("--model '{}' --input '{}/input.safetensors' --output '{}'", model, model,
                       output());
  }

  std::string folder_;
};

void expect_same(const SafetensorsFile& ours, const SafetensorsFile& theirs,
                 const std::string& name, double tolerance) {
  ASSERT_TRUE(ours.contains(name)) << name;
  EXPECT_EQ(ours.entries().at(name).dtype, "F32") << name;
  EXPECT_EQ(ours.entries().at(name).shape, theirs.entries().at(name).shape) << name;
  EXPECT_LE(relative_l2(ours.read_f32(name), theirs.read_f32(name)), tolerance) << name;
}

TEST_F(EvalModel, UNetWritesPredictionLossAndEveryGradient) {
  const std::string model = golden("unet/pooled");
  const Outcome run = eval("unet --grad " + files(model));
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_EQ(run.out, "");
  const SafetensorsFile ours(output()), theirs(model + "/expected.safetensors");
  expect_same(ours, theirs, "prediction", 2e-5);
  expect_same(ours, theirs, "loss", 1e-5);
  std::size_t gradients = 0;
  for (const auto& [name, entry] : theirs.entries()) {
    if (!name.starts_with("grad.")) continue;
    expect_same(ours, theirs, name, 1e-4);
    ++gradients;
  }
  EXPECT_EQ(ours.entries().size(), gradients + 2);
}

TEST_F(EvalModel, UNetReadsAPipelineFolder) {
  fs::create_directory(folder_ + "/pipeline");
  fs::copy(golden("unet/sd2"), folder_ + "/pipeline/unet");
  const Outcome run =
      eval(fmt::format("unet --model '{0}/pipeline' --input '{0}/pipeline/unet/input.safetensors' "
                       "--output '{1}' --precision bf16",
                       folder_, output()));
  ASSERT_EQ(run.code, 0) << run.out;
  const SafetensorsFile ours(output()), theirs(golden("unet/sd2/expected.safetensors"));
  EXPECT_EQ(ours.entries().size(), 1u);
  expect_same(ours, theirs, "prediction", 2 * theirs.read_f32("bf16_error").as<float>()[0]);
}

TEST_F(EvalModel, DescribeNeedsTheConfigOnly) {
  const Outcome run =
      eval(fmt::format("unet --describe --model '{}/configs/models/sd2-unet'", STRATA_SOURCE_DIR));
  ASSERT_EQ(run.code, 0) << run.out;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json.at("parameters"), 865910724);
  EXPECT_EQ(json.at("trainable_parameters"), 865910724);
  EXPECT_NEAR(json.at("flops_forward").get<double>() / 1e9, 804.26, 0.005);
  EXPECT_NEAR(json.at("flops_training").get<double>() / 1e9, 2412.68, 0.005);
}

TEST_F(EvalModel, VaeEncodesAndDecodes) {
  const std::string model = golden("vae/sd2");
  const SafetensorsFile theirs(model + "/expected.safetensors");
  Outcome run = eval("vae-encode " + files(model));
  ASSERT_EQ(run.code, 0) << run.out;
  {
    const SafetensorsFile ours(output());
    EXPECT_EQ(ours.entries().size(), 2u);
    expect_same(ours, theirs, "mean", 2e-5);
    expect_same(ours, theirs, "logvar", 2e-5);
  }
  run = eval("vae-decode " + files(model));
  ASSERT_EQ(run.code, 0) << run.out;
  expect_same(SafetensorsFile(output()), theirs, "image", 2e-5);
}

TEST_F(EvalModel, ExitCodesAndOneLineOfCause) {
  const std::string unet = golden("unet/sd2"), pooled = golden("unet/pooled");
  struct Case {
    std::string arguments;
    Exit code;
    std::string cause;
  };
  const Case cases[] = {
      {"nothing", Exit::usage, "nothing"},
      {"unet --model '" + unet + "'", Exit::usage, "--output"},
      {"unet --precision fp64 " + files(unet), Exit::usage, "fp64"},
      {"unet --model /nowhere --describe", Exit::data, "/nowhere"},
      {fmt::format("unet --model '{}' --input '{}/input.safetensors' --output '{}'", unet, pooled,
                   output()),
       Exit::data, "encoder_hidden_states"},
      {fmt::format("vae-encode --model '{0}' --input '{0}/expected.safetensors' --output '{1}'",
                   golden("vae/old"), folder_ + "/none/out.safetensors"),
       Exit::cannot_create, "/none/"},
      {"vae-decode --tile 12 " + files(golden("vae/sd2")), Exit::usage, "--tile 12"},
  };
  for (const auto& wanted : cases) {
    const Outcome run = eval(wanted.arguments);
    EXPECT_EQ(run.code, static_cast<int>(wanted.code)) << run.out;
    EXPECT_TRUE(run.out.starts_with("strata: error: ")) << run.out;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << run.out;
    EXPECT_NE(run.out.find(wanted.cause), std::string::npos) << run.out;
    EXPECT_FALSE(fs::exists(output()));
  }
}

}  // namespace
}  // namespace strata::test
