// AutoencoderKL against diffusers: tests/golden/vae, made by tools/makers/goldens_vae.py.

#include "model/vae.hpp"

#include <algorithm>
#include <vector>

#include "golden.hpp"
#include "kernels/ops.hpp"

namespace strata::test {
namespace {

constexpr double tolerance = 2e-5;

Buffer permuted(Tensor x, bool to_nhwc) {
  Exec exec;
  const Shape& s = x.shape;
  Buffer y(DType::f32, to_nhwc ? Shape{s[0], s[2], s[3], s[1]} : Shape{s[0], s[3], s[1], s[2]});
  to_nhwc ? ops::nchw_to_nhwc(exec, y, x) : ops::nhwc_to_nchw(exec, y, x);
  return y;
}

/// The values at which `reference` is off the ends of the clamp, which would drown the others.
Buffer unclamped(Tensor values, Tensor reference) {
  std::vector<float> kept;
  for (std::int64_t i = 0; i < values.numel(); ++i)
    if (std::abs(reference.as<float>()[i]) < 20) kept.push_back(values.as<float>()[i]);
  Buffer result(DType::f32, {static_cast<std::int64_t>(kept.size())});
  std::copy(kept.begin(), kept.end(), result.as<float>());
  return result;
}

class VaeGolden : public testing::TestWithParam<const char*> {
 protected:
  VaeGolden()
      : folder_(golden(std::string("vae/") + GetParam())),
        input_(folder_ + "/input.safetensors"),
        expected_(folder_ + "/expected.safetensors") {}
  Buffer image() const { return permuted(input_.read_f32("image"), true); }
  Buffer latent() const { return permuted(input_.read_f32("latent"), true); }

  std::string folder_;
  SafetensorsFile input_, expected_;
  Exec exec_;
};

TEST_P(VaeGolden, EncodesAndDecodesAsDiffusers) {
  const Vae vae = Vae::load(folder_);
  const Moments moments = vae.encode(exec_, image());
  EXPECT_LE(relative_l2(permuted(moments.mean, false), expected_.read_f32("mean")), tolerance);
  const Buffer logvar = permuted(moments.logvar, false), wanted = expected_.read_f32("logvar");
  EXPECT_LE(relative_l2(logvar, wanted), tolerance);
  EXPECT_LE(relative_l2(unclamped(logvar, wanted), unclamped(wanted, wanted)), tolerance);
  EXPECT_LE(relative_l2(permuted(vae.decode(exec_, latent()), false), expected_.read_f32("image")),
            tolerance);
}

// A norm-for-norm bf16 pass is some 2^-8 off at each of a few dozen roundings.
TEST_P(VaeGolden, Bf16StaysWithinThreePercent) {
  const Vae vae = Vae::load(folder_, DType::bf16);
  const Moments moments = vae.encode(exec_, image());
  EXPECT_LE(relative_l2(permuted(moments.mean, false), expected_.read_f32("mean")), 0.03);
  EXPECT_LE(relative_l2(permuted(vae.decode(exec_, latent()), false), expected_.read_f32("image")),
            0.03);
}

INSTANTIATE_TEST_SUITE_P(, VaeGolden, testing::Values("sd2", "old"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Vae, KnowsItsScales) {
  const Vae sd2 = Vae::load(golden("vae/sd2")), old = Vae::load(golden("vae/old"));
  EXPECT_FLOAT_EQ(sd2.scaling_factor(), 0.18215f);  // the default of a file that does not say
  EXPECT_FLOAT_EQ(old.scaling_factor(), 0.5f);
  EXPECT_EQ(sd2.downsample_factor(), 4);
  EXPECT_EQ(old.latent_channels(), 3);
  EXPECT_EQ(sd2.weights_sha256().size(), 64u);
  EXPECT_NE(sd2.weights_sha256(), old.weights_sha256());
}

}  // namespace
}  // namespace strata::test
