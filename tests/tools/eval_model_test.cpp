// `strata eval unet`, `vae-encode` and `vae-decode` as a user runs them.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "tests/model/golden.hpp"
#include "tests/tools/command_test.hpp"

namespace strata::test {
namespace {

namespace fs = std::filesystem;

class EvalModel : public CommandTest {
 protected:
  std::string files(const std::string& model) const {
    return fmt::format("--model '{}' --input '{}/input.safetensors' --output '{}'", model, model,
                       output());
  }
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

TEST_F(EvalModel, RecomputeWritesTheSameBytes) {
  const std::string model = golden("unet/sd1");
  ASSERT_EQ(eval("unet --grad " + files(model)).code, 0);
  const std::string kept = read_file(output());
  ASSERT_EQ(eval("unet --grad --recompute " + files(model)).code, 0);
  EXPECT_TRUE(kept == read_file(output()));
}

TEST_F(EvalModel, UNetReadsShards) {
  const std::string model = golden("unet/sd2"), sharded = folder_ + "/sharded";
  const SafetensorsFolder whole(model, "diffusion_pytorch_model");
  fs::create_directory(sharded);
  fs::copy(model + "/config.json", sharded);
  SafetensorsWriter parts[2];
  nlohmann::json map;
  for (const auto& name : whole.names()) {
    const std::size_t part = name.size() % 2;
    parts[part].add(name, whole.read_f32(name));
    map[name] = fmt::format("diffusion_pytorch_model-0000{}-of-00002.safetensors", part + 1);
  }
  for (int part = 0; part < 2; ++part)
    parts[part].write(
        fmt::format("{}/diffusion_pytorch_model-0000{}-of-00002.safetensors", sharded, part + 1));
  write_file_atomically(sharded + "/diffusion_pytorch_model.safetensors.index.json",
                        nlohmann::json{{"weight_map", map}}.dump());
  const std::string arguments = "unet --model '{}' --input '{}/input.safetensors' --output '{}'";
  const Outcome run = eval(fmt::format(fmt::runtime(arguments), sharded, model, output()));
  ASSERT_EQ(run.code, 0) << run.out;
  const SafetensorsFile ours(output()), theirs(model + "/expected.safetensors");
  expect_same(ours, theirs, "prediction", 2e-5);

  fs::remove(sharded + "/diffusion_pytorch_model-00002-of-00002.safetensors");
  fs::remove(output());
  const Outcome lost = eval(fmt::format(fmt::runtime(arguments), sharded, model, output()));
  EXPECT_EQ(lost.code, static_cast<int>(Exit::data));
  EXPECT_NE(lost.out.find("00002-of-00002"), std::string::npos) << lost.out;
}

/// An input that does not fit the model, by the tensor that is changed.
struct BadInput {
  const char *model, *tensor;
  Buffer value;
  const char* cause;
};

Buffer filled(DType dtype, Shape shape, float value = 0) {
  Buffer buffer(dtype, shape);
  for (std::int64_t i = 0; i < shape.numel(); ++i)
    if (dtype == DType::f32)
      buffer.as<float>()[i] = value;
    else
      buffer.as<std::int64_t>()[i] = static_cast<std::int64_t>(value);
  return buffer;
}

TEST_F(EvalModel, RefusesInputsThatDoNotFitByTheTensorsName) {
  BadInput cases[] = {
      {"unet/sd2", "sample", filled(DType::f32, {2, 3, 8, 8}), "wanted (any, 4, any, any)"},
      {"unet/sd2", "sample", filled(DType::f32, {4, 8, 8}), "(4, 8, 8)"},
      {"unet/sd2", "sample", filled(DType::f32, {0, 4, 8, 8}), "(0, 4, 8, 8)"},
      {"unet/sd2", "sample", filled(DType::i64, {2, 4, 8, 8}), "I64"},
      {"unet/sd2", "timestep", filled(DType::f32, {2}), "F32"},
      {"unet/sd2", "timestep", filled(DType::i64, {3}), "wanted (2)"},
      {"unet/sd2", "encoder_hidden_states", filled(DType::f32, {2, 5, 21}), "wanted (2, any, 20)"},
      {"unet/sd2", "encoder_hidden_states", filled(DType::f32, {3, 5, 20}), "wanted (2, any, 20)"},
      {"unet/sd2", "encoder_attention_mask", filled(DType::i64, {2, 4}, 1), "wanted (2, 5)"},
      {"unet/sd2", "encoder_attention_mask", filled(DType::i64, {2, 5}, 2), "2, not 0 or 1"},
      {"unet/sd2", "encoder_attention_mask", filled(DType::f32, {2, 5}, 1), "F32"},
      {"unet/sd2", "class_labels", filled(DType::f32, {2, 10}), "no pooled vector"},
      {"unet/pooled", "class_labels", filled(DType::f32, {3, 9}), "wanted (3, 10)"},
      {"unet/only_cross_attention", "encoder_attention_mask", filled(DType::i64, {2, 3}),
       "only_cross_attention"},
      {"unet/downsample_padding_0", "sample", filled(DType::f32, {2, 4, 1, 5}), "2 x 2"},
      {"unet/sd2", "target", filled(DType::f32, {2, 4, 8, 9}), "wanted (2, 4, 8, 8)"},
  };
  const std::string changed = folder_ + "/in.safetensors";
  for (auto& bad : cases) {
    const SafetensorsFile original(golden(bad.model) + "/input.safetensors");
    SafetensorsWriter writer;
    for (const auto& [name, entry] : original.entries()) {
      if (name == bad.tensor) continue;
      writer.add(name, entry.dtype == "I64" ? original.read_i64(name) : original.read_f32(name));
    }
    writer.add(bad.tensor, std::move(bad.value));
    writer.write(changed);
    const Outcome run = eval(fmt::format("unet --grad --model '{}' --input '{}' --output '{}'",
                                         golden(bad.model), changed, output()));
    EXPECT_EQ(run.code, static_cast<int>(Exit::data)) << bad.tensor << " " << bad.cause;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << run.out;
    for (const char* part : {changed.c_str(), bad.tensor, bad.cause})
      EXPECT_NE(run.out.find(part), std::string::npos) << run.out;
    EXPECT_FALSE(fs::exists(output()));
  }
}

// As in PyTorch: a sample that is not a number spoils its own prediction and no other.
TEST_F(EvalModel, NotANumberStaysInItsSample) {
  const std::string model = golden("unet/sd2"), changed = folder_ + "/in.safetensors";
  const SafetensorsFile original(model + "/input.safetensors");
  Buffer sample = original.read_f32("sample");
  sample.as<float>()[17] = std::numeric_limits<float>::quiet_NaN();
  SafetensorsWriter writer;
  writer.add("sample", std::move(sample));
  writer.add("timestep", original.read_i64("timestep"));
  writer.add("encoder_hidden_states", original.read_f32("encoder_hidden_states"));
  writer.write(changed);
  const Outcome run =
      eval(fmt::format("unet --model '{}' --input '{}' --output '{}'", model, changed, output()));
  ASSERT_EQ(run.code, 0) << run.out;
  const Buffer ours = SafetensorsFile(output()).read_f32("prediction"),
               theirs = SafetensorsFile(model + "/expected.safetensors").read_f32("prediction");
  const Tensor second = ours.tensor().rows(1, 2);
  EXPECT_LE(relative_l2(second, theirs.tensor().rows(1, 2)), 2e-5);
  EXPECT_TRUE(std::isnan(ours.as<float>()[0]));
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
