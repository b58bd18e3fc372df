// The noise schedule against diffusers' own values.

#include "diffusion/schedule.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/file.hpp"

namespace strata {
namespace {

nlohmann::json goldens() {
  return nlohmann::json::parse(
      read_file(std::string(STRATA_SOURCE_DIR) + "/tests/golden/schedule/schedule.json"));
}

NoiseSchedule schedule_of(const nlohmann::json& golden) {
  ScheduleConfig c;
  for (const auto schedule :
       {BetaSchedule::scaled_linear, BetaSchedule::linear, BetaSchedule::squaredcos_cap_v2})
    if (golden["beta_schedule"] == name_of(schedule)) c.beta_schedule = schedule;
  c.zero_terminal_snr = golden["zero_terminal_snr"];
  c.beta_start = golden["beta_start"];
  c.beta_end = golden["beta_end"];
  c.prediction = golden["prediction"] == "epsilon" ? Prediction::epsilon : Prediction::v_prediction;
  return NoiseSchedule(c);
}

TEST(NoiseSchedule, EqualsDiffusers) {
  const auto file = goldens();
  const std::vector<int> at = file["timesteps"];
  for (const auto& golden : file["cases"]) {
    SCOPED_TRACE(golden["beta_schedule"].get<std::string>() + " " +
                 golden["prediction"].get<std::string>());
    const NoiseSchedule s = schedule_of(golden);
    for (std::size_t i = 0; i < at.size(); ++i) {
      const auto bits = [&](const char* key) { return golden[key][i].get<std::uint32_t>(); };
      const int t = at[i];
      const auto value = [&](const char* key) { return std::bit_cast<float>(bits(key)); };
      // torch's sqrt and x ** 0.5 are vectorised and off by up to one ulp; ours are exact. The
      // rescaling to zero terminal SNR subtracts such roots, so there a few ulps of 1 count.
      const float ulp = s.config().zero_terminal_snr ? 0x1p-20f : 0.0f;
      EXPECT_NEAR(s.betas()[t], value("betas"), ulp * value("betas") * 1000) << t;
      EXPECT_NEAR(s.alphas_cumprod()[t], value("alphas_cumprod"), ulp) << t;
      const auto near = [&](float ours, float theirs) {
        EXPECT_NEAR(ours, theirs, ulp + 0x1p-22f * std::abs(theirs)) << t;
      };
      near(s.signal(t), value("signal"));
      near(s.noise(t), value("noise"));
      near(s.target_signal(t), value("target_signal"));
      near(s.target_noise(t), value("target_noise"));
      near(s.min_snr_weight(t, 5.0), golden["min_snr_5"][i].get<float>());
    }
    const auto all = s.alphas_cumprod();
    // Every one of the 1000 products is pinned by their sum; the sum's own rounding is < 1000 *
    // 2^-53.
    EXPECT_NEAR(std::accumulate(all.begin(), all.end(), 0.0),
                golden["all_alphas_cumprod_sum"].get<double>(),
                s.config().zero_terminal_snr ? 1000 * 0x1p-23 : 1e-9);
  }
}

TEST(NoiseSchedule, DefaultsAreTheRecipe) {
  const NoiseSchedule s;
  EXPECT_EQ(s.timesteps(), 1000);
  EXPECT_NEAR(s.alphas_cumprod()[0], 1 - 0.00085, 1e-7);
  EXPECT_NEAR(s.alphas_cumprod()[999], 0.0047, 1e-4);
  EXPECT_EQ(s.min_snr_weight(3, 0), 1.0f);
  EXPECT_EQ(s.target_noise(500), 1.0f);
  EXPECT_EQ(s.target_signal(500), 0.0f);
}

TEST(NoiseSchedule, OneTimestepIsAllowed) {
  ScheduleConfig c;
  c.timesteps = 1;
  EXPECT_EQ(NoiseSchedule(c).betas().size(), 1u);
}

}  // namespace
}  // namespace strata
