// The U-Net against diffusers: tests/golden/unet, made by tools/makers/goldens_unet.py.

#include <cstring>
#include <set>

#include "unet_corner.hpp"

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

void expect_same_bits(Tensor a, Tensor b) {
  ASSERT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(0, std::memcmp(a.data, b.data, a.bytes()));
}

class UNetGolden : public testing::TestWithParam<std::string> {
 protected:
  const UNetCorner corner_{GetParam()};
  const ParameterTable& table_ = corner_.table();
};

TEST_P(UNetGolden, PredictionAndEveryGradientInF32) {
  const auto errors = corner_.measure(DType::f32);
  EXPECT_LE(errors.prediction, forward_tolerance);
  EXPECT_LE(errors.loss, 1e-5);
  EXPECT_LE(errors.worst_gradient, gradient_tolerance) << errors.worst_parameter;
}

// bf16 keeps 8 bits wherever PyTorch's does, so neither error may be far above PyTorch's own.
TEST_P(UNetGolden, Bf16IsAtMostTwiceAsFarOffAsPyTorch) {
  const auto errors = corner_.measure(DType::bf16);
  EXPECT_LE(errors.prediction, 2.0 * corner_.of_pytorch("bf16_error"));
  EXPECT_LE(errors.gradients, 2.0 * corner_.of_pytorch("bf16_grad_error"));
}

TEST_P(UNetGolden, ReportsEachGradientOnceInTheTablesOrder) {
  Exec exec;
  const Buffer flat = corner_.parameters(DType::f32);
  const auto planned = table_.completion_order();
  for (const bool recompute : {false, true}) {
    RecordedGradients gradients(table_);
    corner_.run(exec, flat, &gradients, recompute);
    EXPECT_EQ(gradients.order, std::vector<ParamId>(planned.begin(), planned.end()));
  }
}

TEST_P(UNetGolden, InferenceGivesTheSameBitsAndLeavesTheArenaEmpty) {
  Exec exec, fresh;
  const Buffer flat = corner_.parameters(DType::f32);
  DenseGradients gradients(table_);
  const auto training = corner_.run(exec, flat, &gradients);
  const auto inference = corner_.run(fresh, flat, nullptr);
  expect_same_bits(training.prediction, inference.prediction);
  EXPECT_EQ(fresh.arena.used_bytes(), 0u);
  EXPECT_LE(fresh.arena.peak_bytes(), exec.arena.peak_bytes());
}

TEST_P(UNetGolden, RecomputeGivesTheSameBitsInLessMemory) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Exec exec, frugal;
    const Buffer flat = corner_.parameters(dtype);
    DenseGradients kept(table_), again(table_);
    const auto first = corner_.run(exec, flat, &kept);
    const auto second = corner_.run(frugal, flat, &again, true);
    expect_same_bits(first.prediction, second.prediction);
    EXPECT_EQ(first.loss, second.loss);
    expect_same_bits(kept.flat(), again.flat());
    EXPECT_EQ(frugal.arena.used_bytes(), 0u);
    EXPECT_LT(frugal.arena.peak_bytes(), exec.arena.peak_bytes());
  }
}

TEST_P(UNetGolden, GradientsAccumulateOverMicrobatches) {
  Exec exec;
  const Buffer flat = corner_.parameters(DType::f32);
  DenseGradients once(table_), twice(table_);
  corner_.run(exec, flat, &once);
  for (int i = 0; i < 2; ++i) corner_.run(exec, flat, &twice);
  for (std::int64_t i = 0; i < table_.numel(); ++i) once.flat().as<float>()[i] *= 2.0f;
  EXPECT_LE(relative_l2(twice.flat(), once.flat()), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(, UNetGolden, testing::ValuesIn(golden_unets()),
                         [](const auto& info) { return info.param; });

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

TEST(UNetDescribe, TheLeadAlignsAllBehindAnOddParameterAtTheFront) {
  ParameterTable table;
  table.add("odd", {4});
  table.add("wide", {320, 320});
  table.add("short", {9});
  table.add("last", {320});
  EXPECT_EQ(table.lead(DType::bf16), 4);  // 4 + 4 elements are 16 bytes
  EXPECT_EQ(table.lead(DType::f32), 0);
  ParameterTable even;
  even.add("wide", {320, 320});
  even.add("last", {320});
  EXPECT_EQ(even.lead(DType::bf16), 0);
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
