#include "diffusion/guidance.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace strata {
namespace {

TEST(Guidance, IsLinear) {
  const std::vector<float> u{1.0f, 2.0f}, c{3.0f, 1.0f};
  std::vector<float> y(2);
  guide(y, u, c, {7.0f}, 1);
  EXPECT_EQ(y, (std::vector<float>{15.0f, -5.0f}));
  guide(y, u, c, {0.0f}, 1);
  EXPECT_EQ(y, u);
}

// Values of diffusers 0.42: rescale_noise_cfg(u + 7.5 (c - u), c, phi) with two pictures of five
// numbers, all multiples of 1/64.
TEST(Guidance, RescaleIsThatOfDiffusers) {
  std::vector<float> u{80, 17, 9, -61, 5, -137, 34, 101, -144, 98};
  std::vector<float> c{52, 124, -86, 30, 42, -8, 93, 82, 50, -16};
  for (float& value : u) value /= 64;
  for (float& value : c) value /= 64;
  const std::vector<float> part{-0.785552680f, 4.952003479f, -4.251048565f, 3.755546331f,
                                1.707066417f,  4.465211391f, 2.561918497f,  -0.223126158f,
                                7.048635960f,  -4.070035934f};
  const std::vector<float> whole{-0.251682431f, 1.586567283f, -1.361989021f, 1.203235507f,
                                 0.546925247f,  0.817489445f, 0.469035178f,  -0.040849861f,
                                 1.290461898f,  -0.745140851f};
  for (const auto& [phi, wanted] : {std::pair{0.7f, part}, {1.0f, whole}}) {
    std::vector<float> y = u;
    guide(y, y, c, {7.5f, phi}, 2);
    for (std::size_t i = 0; i < y.size(); ++i)
      EXPECT_NEAR(y[i], wanted[i], 2e-6) << phi << " " << i;
  }
}

}  // namespace
}  // namespace strata
