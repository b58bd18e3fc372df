#include "diffusion/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.hpp"
#include "core/safetensors.hpp"

namespace strata {
namespace {

const std::string goldens = STRATA_SOURCE_DIR "/tests/golden/scheduler/";

std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const auto raw = file.raw(name);
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), raw.size());
  return values;
}

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

class DdimGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(DdimGolden, TrajectoryIsThatOfDiffusers) {
  const std::string name = GetParam();
  const SafetensorsFile golden(goldens + name + ".safetensors");
  const auto timesteps = floats(golden, "timesteps");
  const auto outputs = floats(golden, "model_output");
  const auto trajectory = floats(golden, "trajectory");
  auto x = floats(golden, "sample");
  const auto sampler = make_sampler(
      SamplerKind::ddim, SamplerConfig::from_json_file(goldens + name, SamplerKind::ddim),
      static_cast<int>(timesteps.size()));
  ASSERT_EQ(sampler->steps(), static_cast<int>(timesteps.size()));
  EXPECT_EQ(sampler->initial_sigma(), 1.0f);
  for (int i = 0; i < sampler->steps(); ++i) {
    EXPECT_EQ(sampler->timesteps()[i], timesteps[i]);
    sampler->step(i, x, std::span(outputs).subspan(i * x.size(), x.size()));
    EXPECT_LE(relative_l2(x, std::span(trajectory).subspan((i + 1) * x.size(), x.size())), 2e-5)
        << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, DdimGolden,
                         ::testing::Values("recipe", "sd2_offset", "v_prediction", "trailing",
                                           "linspace", "class_defaults"));

TEST(Sampler, RecipeIsTheGoldenOne) {
  const auto from_file = SamplerConfig::from_json_file(goldens + "recipe", SamplerKind::ddim);
  EXPECT_EQ(from_file.to_json(), SamplerConfig().to_json());
}

// With the true noise as the model's output every DDIM step lands on the same clean image.
TEST(Sampler, TrueNoiseLeadsToTheCleanImage) {
  const SamplerConfig config;
  const auto sampler = make_sampler(SamplerKind::ddim, config, 50);
  const std::vector<float> clean{0.5f, -1.25f, 2.0f}, noise{1.0f, -0.5f, 0.25f};
  const int first = static_cast<int>(sampler->timesteps()[0]);
  std::vector<float> x(3);
  for (int i = 0; i < 3; ++i)
    x[i] = config.schedule.signal(first) * clean[i] + config.schedule.noise(first) * noise[i];
  for (int i = 0; i < sampler->steps(); ++i) sampler->step(i, x, noise);
  for (int i = 0; i < 3; ++i)  // set_alpha_to_one false: the end is timestep 0
    EXPECT_NEAR(x[i], config.schedule.signal(0) * clean[i] + config.schedule.noise(0) * noise[i],
                2e-5);
}

TEST(Sampler, GuidanceIsLinear) {
  const std::vector<float> u{1.0f, 2.0f}, c{3.0f, 1.0f};
  std::vector<float> y(2);
  guide(y, u, c, 7.0f);
  EXPECT_EQ(y, (std::vector<float>{15.0f, -5.0f}));
  guide(y, u, c, 0.0f);
  EXPECT_EQ(y, u);
}

TEST(Sampler, RefusesWhatItCannotDo) {
  const auto code = [](auto&& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::ok;
  };
  EXPECT_EQ(code([] { sampler_kind("heun"); }), Exit::usage);
  EXPECT_EQ(code([] { make_sampler(SamplerKind::ddim, SamplerConfig(), 0); }), Exit::usage);
  EXPECT_EQ(code([] { make_sampler(SamplerKind::ddim, SamplerConfig(), 1001); }), Exit::usage);
  EXPECT_EQ(code([] { SamplerConfig::from_json_file("/nowhere", SamplerKind::ddim); }), Exit::data);
}

}  // namespace
}  // namespace strata
