// The U-Net against diffusers: tests/golden/unet, made by tools/makers/goldens_unet.py.

#include <cstring>
#include <set>

#include "golden.hpp"
#include "model/unet_example.hpp"
#include "model/weights.hpp"

namespace strata::test {
namespace {

constexpr double forward_tolerance = 2e-5, gradient_tolerance = 1e-4;

/// DenseGradients that notes the order in which parameters are reported.
class RecordedGradients : public DenseGradients {
 public:
  using DenseGradients::DenseGradients;
  void ready(std::span<const ParamId> ids) override {
    order.insert(order.end(), ids.begin(), ids.end());
  }
  std::vector<ParamId> order;
};

class UNetGolden : public testing::TestWithParam<const char*> {
 protected:
  UNetGolden()
      : folder_(golden(std::string("unet/") + GetParam())),
        unet_(UNetConfig::from_folder(folder_)),
        expected_(folder_ + "/expected.safetensors"),
        example_(UNetExample::read(SafetensorsFile(folder_ + "/input.safetensors"), unet_.config(),
                                   true)),
        flat_(load_parameters(unet_.parameters(),
                              SafetensorsFolder(folder_, "diffusion_pytorch_model"))) {}

  const ParameterTable& table() const { return unet_.parameters(); }
  Buffer expected_gradient(ParamId id) const {
    return expected_.read_f32("grad." + table()[id].name);
  }
  Buffer exported(ParamId id, Tensor memory) const {
    Buffer file(DType::f32, table()[id].shape);
    export_parameter(table()[id], file, memory);
    return file;
  }

  std::string folder_;
  UNet unet_;
  SafetensorsFile expected_;
  UNetExample example_;
  Buffer flat_;
  Exec exec_;
};

TEST_P(UNetGolden, PredictionAndEveryGradientInF32) {
  RecordedGradients gradients(table());
  const auto outcome = run(exec_, unet_, {table(), flat_}, example_, &gradients);
  EXPECT_LE(relative_l2(outcome.prediction, expected_.read_f32("prediction")), forward_tolerance);
  const double loss = expected_.read_f32("loss").as<float>()[0];
  EXPECT_NEAR(outcome.loss, loss, 1e-5 * loss);
  for (ParamId id = 0; id < table().size(); ++id)
    EXPECT_LE(relative_l2(exported(id, gradients[id]), expected_gradient(id)), gradient_tolerance)
        << table()[id].name;
}

TEST_P(UNetGolden, ReportsEachGradientOnceInTheTablesOrder) {
  RecordedGradients gradients(table());
  run(exec_, unet_, {table(), flat_}, example_, &gradients);
  const auto planned = table().completion_order();
  EXPECT_EQ(gradients.order, std::vector<ParamId>(planned.begin(), planned.end()));
}

TEST_P(UNetGolden, InferenceGivesTheSameBitsAndLeavesTheArenaEmpty) {
  DenseGradients gradients(table());
  const auto training = run(exec_, unet_, {table(), flat_}, example_, &gradients);
  const std::size_t training_peak = exec_.arena.peak_bytes();
  Exec fresh;
  const auto inference = run(fresh, unet_, {table(), flat_}, example_, nullptr);
  EXPECT_EQ(0, std::memcmp(training.prediction.tensor().data, inference.prediction.tensor().data,
                           training.prediction.tensor().bytes()));
  EXPECT_EQ(fresh.arena.used_bytes(), 0u);
  EXPECT_LE(fresh.arena.peak_bytes(), training_peak);
}

TEST_P(UNetGolden, GradientsAccumulateOverMicrobatches) {
  DenseGradients once(table()), twice(table());
  run(exec_, unet_, {table(), flat_}, example_, &once);
  for (int i = 0; i < 2; ++i) run(exec_, unet_, {table(), flat_}, example_, &twice);
  const std::int64_t n = table().numel();
  for (std::int64_t i = 0; i < n; ++i) once.flat().as<float>()[i] *= 2.0f;
  EXPECT_LE(relative_l2(twice.flat(), once.flat()), 1e-6);
}

// bf16 keeps 8 bits wherever PyTorch's does, so neither error may be far above PyTorch's own.
TEST_P(UNetGolden, Bf16IsAtMostTwiceAsFarOffAsPyTorch) {
  const Buffer low = convert_parameters(std::move(flat_), DType::bf16, host_device);
  DenseGradients gradients(table());
  const auto outcome = run(exec_, unet_, {table(), low}, example_, &gradients);
  EXPECT_LE(relative_l2(outcome.prediction, expected_.read_f32("prediction")),
            2.0 * expected_.read_f32("bf16_error").as<float>()[0]);
  double difference = 0, norm = 0;
  for (ParamId id = 0; id < table().size(); ++id) {
    const Buffer ours = exported(id, gradients[id]), theirs = expected_gradient(id);
    for (std::int64_t i = 0; i < table()[id].numel(); ++i) {
      const double y = theirs.as<float>()[i];
      difference += std::pow(ours.as<float>()[i] - y, 2);
      norm += y * y;
    }
  }
  EXPECT_LE(std::sqrt(difference / norm),
            2.0 * expected_.read_f32("bf16_grad_error").as<float>()[0]);
}

INSTANTIATE_TEST_SUITE_P(, UNetGolden, testing::Values("sd2", "sd1", "pooled", "projected"),
                         [](const auto& info) { return std::string(info.param); });

// --- the published network ----------------------------------------------------------------------

TEST(UNetDescribe, Sd2BaseHasThePublishedCounts) {
  const auto config = UNetConfig::from_json_file(std::string(STRATA_SOURCE_DIR) +
                                                 "/configs/models/sd2-unet/config.json");
  const UNet unet(config);
  EXPECT_EQ(unet.parameters().numel(), 865910724);
  EXPECT_EQ(unet.parameters().size(), 686);
  EXPECT_EQ(config.sample_height, 64);
  // GFLOP of tools that count every contraction: 181.09 forward, 543.25 with backward at 32 x 32;
  // 804.26 and 2412.68 at 64 x 64.
  const Flops small = unet.flops(32, 32, 77), large = unet.flops(64, 64, 77);
  EXPECT_NEAR(small.forward / 1e9, 181.09, 0.005);
  EXPECT_NEAR((small.forward + small.backward) / 1e9, 543.25, 0.005);
  EXPECT_NEAR(large.forward / 1e9, 804.26, 0.005);
  EXPECT_NEAR((large.forward + large.backward) / 1e9, 2412.68, 0.005);
  EXPECT_EQ(forward_flops(config, 32, 32, 77), small.forward);
}

TEST(UNetDescribe, TheFlatOrderBeginsAtTheEndAndClosesWithTheEmbeddings) {
  const UNet unet(UNetConfig::from_folder(golden("unet/pooled")));
  const auto& table = unet.parameters();
  const auto order = table.completion_order();
  EXPECT_TRUE(table[order.front()].name.starts_with("conv_out"));
  const std::set<std::string> last{"encoder_hid_proj.weight"};
  EXPECT_TRUE(last.contains(table[order.back()].name) ||
              table[order.back()].name.starts_with("time_embedding"));
  std::int64_t offset = 0;
  for (const ParamId id : order) {
    EXPECT_EQ(table[id].offset, offset);
    offset += table[id].numel();
  }
}

}  // namespace
}  // namespace strata::test
