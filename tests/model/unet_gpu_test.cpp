// The U-Net on a GPU against diffusers: the host's goldens and its tolerances.

#include "tests/gpu.hpp"
#include "unet_corner.hpp"

namespace strata::test {
namespace {

class UNetOnGpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (const std::string why = missing_gpu(); !why.empty()) GTEST_SKIP() << why;
    device_ = cuda_device();
  }
  const UNetCorner corner_{GetParam()};
  Device device_;
};

TEST_P(UNetOnGpu, PredictionAndEveryGradientInF32) {
  const auto errors = corner_.measure(DType::f32, device_);
  EXPECT_LE(errors.prediction, 2e-5);
  EXPECT_LE(errors.loss, 1e-5);
  EXPECT_LE(errors.worst_gradient, 1e-4) << errors.worst_parameter;
}

TEST_P(UNetOnGpu, Bf16IsAtMostTwiceAsFarOffAsPyTorch) {
  const auto errors = corner_.measure(DType::bf16, device_);
  EXPECT_LE(errors.prediction, 2.0 * corner_.of_pytorch("bf16_error"));
  EXPECT_LE(errors.gradients, 2.0 * corner_.of_pytorch("bf16_grad_error"));
}

TEST_P(UNetOnGpu, TheSameBitsInEveryRun) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto once = corner_.measure(dtype, device_), again = corner_.measure(dtype, device_);
    EXPECT_EQ(once.prediction, again.prediction);
    EXPECT_EQ(once.gradients, again.gradients);
  }
}

INSTANTIATE_TEST_SUITE_P(, UNetOnGpu, testing::ValuesIn(golden_unets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace strata::test
