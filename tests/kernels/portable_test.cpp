// The scalar formulas against the exact functions, and the normals bit for bit. Compiled with
// contraction off, as every user of portable/normals.hpp is.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/buffer.hpp"
#include "core/exec.hpp"
#include "kernels/ops.hpp"
#include "kernels/portable/math.hpp"
#include "kernels/portable/normals.hpp"
#include "kernels/reference/reference.hpp"

namespace strata {
namespace {

/// The largest |f(x) - exact(x)| / unit(x) over [low, high].
template <class F, class Exact, class Unit>
double worst(double low, double high, F f, Exact exact, Unit unit) {
  constexpr int points = 1'000'000;
  double largest = 0;
  for (int i = 0; i <= points; ++i) {
    const auto x = static_cast<float>(low + (high - low) * i / points);
    const double want = exact(static_cast<double>(x));
    largest = std::max(largest, std::abs(f(x) - want) / unit(want));
  }
  return largest;
}
/// One unit in the last place of an f32 of this size.
double ulp(double value) {
  return std::ldexp(1.0, std::max(std::ilogb(value), -126) - 23);
}
double exact_cdf(double x) {
  return 0.5 * std::erfc(-x / std::sqrt(2.0));
}

TEST(Portable, Exponential) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LE(worst(-87, 88, portable::exp, exact, ulp), 2.0);
  EXPECT_LE(worst(-1, 1, portable::exp, exact, ulp), 1.5);
  EXPECT_GT(portable::exp(-1e30f), 0.0f);
  EXPECT_LT(portable::exp(-INFINITY), 1e-37f);
  EXPECT_TRUE(std::isfinite(portable::exp(INFINITY)));
  EXPECT_TRUE(std::isnan(portable::exp(NAN)));
}

TEST(Portable, SiluIsRelativelyExact) {
  EXPECT_LE(worst(-80, 80, portable::silu, reference::silu, ulp), 6.0);
  const auto one = [](double) { return std::ldexp(1.0, -23); };
  EXPECT_LE(worst(-80, 80, portable::silu_slope, reference::silu_slope, one), 4.0);
  EXPECT_EQ(portable::silu(200.0f), 200.0f);
  EXPECT_NEAR(portable::silu(-200.0f), 0.0f, 1e-30f);
}

TEST(Portable, HyperbolicTangentIsRelativelyExact) {
  const auto exact = [](double x) { return std::tanh(x); };
  EXPECT_LE(worst(-12, 12, portable::tanh, exact, ulp), 4.0);
  EXPECT_LE(worst(1e-6, 0.1, portable::tanh, exact, ulp), 4.0);
  EXPECT_EQ(portable::tanh(INFINITY), 1.0f);
  EXPECT_EQ(portable::tanh(-1e30f), -1.0f);
  EXPECT_EQ(portable::tanh(0.0f), 0.0f);
  EXPECT_TRUE(std::isnan(portable::tanh(NAN)));
}

TEST(Portable, GatesByTanhAndSigmoid) {
  // Relative to x: the sigmoid is within 4 ulp of f32, its argument within a few roundoffs of it.
  for (const auto a : {ops::Activation::gelu_tanh, ops::Activation::quick_gelu}) {
    const auto ours = [a](float x) {
      return a == ops::Activation::gelu_tanh ? portable::gelu_tanh(x) : portable::quick_gelu(x);
    };
    const auto exact = [a](double x) { return reference::activation(x, a); };
    const auto unit = [](double want) { return std::ldexp(1 + std::abs(want), -23); };
    EXPECT_LE(worst(-9, 9, ours, exact, unit), 4.0);
  }
}

TEST(Portable, NormalDistribution) {
  const auto one = [](double) { return std::ldexp(1.0, -24); };
  EXPECT_LE(worst(-9, 9, portable::normal_cdf, exact_cdf, one), 4.0);
  const auto slope = [](float x) { return portable::gelu_and_slope(x).slope; };
  EXPECT_LE(worst(-9, 9, slope, reference::gelu_slope, one), 6.0);
  const auto relative_to_input = [](double want) { return std::ldexp(1 + std::abs(want), -24); };
  EXPECT_LE(worst(0, 9, portable::gelu, reference::gelu, relative_to_input), 4.0);
  EXPECT_LE(worst(-5.6, 0, portable::gelu, reference::gelu, one), 4.0 * 5.6);
}

TEST(Normals, FollowTheFormula) {
  // Words across the whole range, and the ends of it.
  std::vector<std::uint32_t> words{0,          1,          2,          0x1fffffff, 0x20000000,
                                   0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000, 0xbfffffff,
                                   0xc0000000, 0xdfffffff, 0xe0000000, 0xfffffffe, 0xffffffff};
  for (std::uint32_t i = 0; i < 500; ++i) words.push_back(i * 8590001u + 77);
  for (const auto radius : words)
    for (const auto angle : words) {
      const auto got = portable::normal_pair(radius, angle);
      const auto want = reference::box_muller(radius, angle);
      // The uniform is rounded in f32 to 2^-25 of itself, or of one near one, where the radius is
      // sqrt(2 (1 - u)): an error of 2^-25 in u moves it by at most sqrt(2^-24).
      const double length = std::hypot(want.first, want.second);
      const double near_one = radius > 0xff000000u ? 0x1p-12 : 0;
      const double allowed = 1e-6 * (1 + length) + near_one;
      ASSERT_NEAR(got.first, want.first, allowed) << radius << " " << angle;
      ASSERT_NEAR(got.second, want.second, allowed) << radius << " " << angle;
      ASSERT_LE(std::abs(got.first), 6.77f);
    }
}

class NormalField : public testing::Test {
 protected:
  static constexpr std::int64_t rows = 16, width = 1 << 16, count = rows * width;

  static Buffer draw(int threads, std::int64_t columns = width) {
    std::vector<PhiloxCounter> at;
    for (std::uint64_t row = 0; row < rows; ++row)
      at.push_back({row * 1'000'003, static_cast<std::uint32_t>(row), Purpose::noise});
    Buffer out(DType::f32, {rows, columns});
    Exec exec(host_device, threads);
    ops::normals(exec, out, {0x123456789abcdefu}, at.data());
    return out;
  }
};

TEST_F(NormalField, SameBitsEverywhere) {
  const Buffer out = draw(1), two = draw(2);
  EXPECT_EQ(std::memcmp(out.as<float>(), two.as<float>(), count * sizeof(float)), 0);
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over the words
  for (std::int64_t i = 0; i < count; ++i)
    hash = (hash ^ std::bit_cast<std::uint32_t>(out.as<float>()[i])) * 0x100000001b3u;
  EXPECT_EQ(hash, 0x88be7503bbaea85au);
}

TEST_F(NormalField, RowsDoNotDependOnTheirLength) {
  const Buffer out = draw(1), narrow = draw(1, 1003);
  for (std::int64_t row = 0; row < rows; ++row)
    EXPECT_EQ(std::memcmp(out.as<float>() + row * width, narrow.as<float>() + row * 1003,
                          1003 * sizeof(float)),
              0);
}

TEST_F(NormalField, DistributionIsNormal) {
  const Buffer out = draw(1);
  std::vector<float> sorted(out.as<float>(), out.as<float>() + count);
  double mean = 0, second = 0, third = 0, fourth = 0, neighbours = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const double z = sorted[i];
    mean += z / count;
    second += z * z / count;
    third += z * z * z / count;
    fourth += z * z * z * z / count;
    if (i + 1 < sorted.size()) neighbours += z * sorted[i + 1] / count;
  }
  const double deviation = 1 / std::sqrt(static_cast<double>(count));  // five of them allowed
  EXPECT_NEAR(mean, 0, 5 * deviation);
  EXPECT_NEAR(second, 1, 5 * std::sqrt(2.0) * deviation);
  EXPECT_NEAR(third, 0, 5 * std::sqrt(15.0) * deviation);
  EXPECT_NEAR(fourth, 3, 5 * std::sqrt(96.0) * deviation);
  EXPECT_NEAR(neighbours, 0, 5 * deviation);
  std::sort(sorted.begin(), sorted.end());
  double distance = 0;  // Kolmogorov-Smirnov: beyond 1.95 / sqrt(n) once in a thousand seeds
  for (std::size_t i = 0; i < sorted.size(); ++i)
    distance =
        std::max(distance, std::abs(exact_cdf(sorted[i]) - (static_cast<double>(i) + 0.5) / count));
  EXPECT_LT(distance, 1.95 * deviation);
  // The largest of n normals lies within (3.9, 6.4) but once in a thousand seeds.
  EXPECT_GT(sorted.back(), 3.9f);
  EXPECT_LT(sorted.back(), 6.4f);
}

}  // namespace
}  // namespace strata
