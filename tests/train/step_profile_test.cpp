// Spans summed up: times of spans without what they contain, by kind and by block.

#include "train/step_profile.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace strata {
namespace {

constexpr std::int64_t ms = 1'000'000;

/// One step of 100 ms: 30 forward with a block of 20 with an op of 15, in it a reorder of 5; 40
/// backward with an op of 10; an update with an op of 20.
spans::Lane a_step() {
  spans::Lane lane{.thread = "main"};
  const auto add = [&](const char* name, const char* kind, std::int64_t begin, std::int64_t end,
                       double flops = 0, double bytes = 0) {
    lane.events.push_back({name, kind, begin * ms, end * ms, flops, bytes});
  };
  add("reorder weights", "op", 1, 6, 0, 500);
  add("conv2d", "op", 1, 16, 4000, 100);
  add("resnet", "part", 1, 18);
  add("down_blocks 0", "block", 1, 21);
  add("forward", "pass", 0, 30);
  add("linear_backward dw", "op", 40, 50, 1000, 300);
  add("backward", "pass", 30, 70);
  add("adamw", "op", 75, 95, 0, 1000);
  add("update", "pass", 70, 95);
  add("step", "step", 0, 100);
  return lane;
}

const ProfileRow& row(const std::vector<ProfileRow>& rows, const std::string& name) {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.name == name; });
  if (found == rows.end()) throw std::runtime_error("no row " + name);
  return *found;
}

double sum(const std::vector<ProfileRow>& rows) {
  double seconds = 0;
  for (const ProfileRow& r : rows) seconds += r.total();
  return seconds;
}

// A machine that does 1 MFLOP/s and 100 kB/s.
constexpr MachinePeaks peaks{1e6, 1e5};

TEST(StepProfile, TimesAreOfASpanWithoutWhatItContains) {
  const StepProfile p = profile_of({a_step()}, 1, peaks);
  EXPECT_NEAR(p.seconds, 0.1, 1e-12);
  EXPECT_NEAR(sum(p.kinds), 0.1, 1e-12);
  EXPECT_NEAR(sum(p.blocks), 0.1, 1e-12);
  EXPECT_NEAR(row(p.kinds, "conv forward").total(), 0.010, 1e-12);
  EXPECT_NEAR(row(p.kinds, "weight reorder").total(), 0.005, 1e-12);
  EXPECT_NEAR(row(p.kinds, "linear weight gradient").total(), 0.010, 1e-12);
  EXPECT_NEAR(row(p.kinds, "optimizer").total(), 0.020, 1e-12);
  EXPECT_NEAR(row(p.kinds, "other").total(), 0.055, 1e-12);
}

TEST(StepProfile, BlocksKnowTheirPass) {
  const StepProfile p = profile_of({a_step()}, 1, peaks);
  const ProfileRow& resnet = row(p.blocks, "down_blocks 0 resnet");
  EXPECT_NEAR(resnet.seconds[0], 0.017, 1e-12);
  EXPECT_EQ(resnet.seconds[1], 0);
  EXPECT_EQ(resnet.flops, 4000);
  EXPECT_EQ(resnet.calls, 2);
  EXPECT_NEAR(row(p.blocks, "down_blocks 0").seconds[0], 0.003, 1e-12);
  EXPECT_NEAR(row(p.blocks, "backward").seconds[1], 0.040, 1e-12);
  EXPECT_NEAR(row(p.blocks, "update").seconds[2], 0.025, 1e-12);
  EXPECT_NEAR(row(p.blocks, "around the passes").seconds[2], 0.005, 1e-12);
  EXPECT_EQ(p.blocks.front().name, "down_blocks 0");
}

TEST(StepProfile, ShareIsOfThePeakThatBounds) {
  const StepProfile p = profile_of({a_step()}, 1, peaks);
  const ProfileRow& conv = row(p.kinds, "conv forward");  // 4 ms of arithmetic, 1 ms of memory
  EXPECT_NEAR(conv.share_of_peak(), 0.4, 1e-9);
  EXPECT_FALSE(conv.is_bound_by_memory());
  const ProfileRow& update = row(p.kinds, "optimizer");  // 10 ms of memory
  EXPECT_NEAR(update.share_of_peak(), 0.5, 1e-9);
  EXPECT_TRUE(update.is_bound_by_memory());
}

TEST(StepProfile, StepsAreAveragedAndOtherThreadsStandApart) {
  spans::Lane twice = a_step();
  for (const spans::Event& event : a_step().events) {
    spans::Event later = event;
    later.begin = 100 * ms + 3 * event.begin;  // three times as long
    later.end = 100 * ms + 3 * event.end;
    twice.events.push_back(later);
  }
  const spans::Lane other{.thread = "communication",
                          .events = {{"all-gather", "communication", 0, 50 * ms}}};
  const StepProfile p = profile_of({twice, other}, 2, peaks);
  EXPECT_NEAR(p.seconds, 0.2, 1e-12);
  EXPECT_NEAR(row(p.kinds, "conv forward").total(), 0.020, 1e-12);
  ASSERT_EQ(p.behind.size(), 1u);
  EXPECT_NEAR(p.behind[0].total(), 0.025, 1e-12);
}

TEST(StepProfile, SpansThatWereLeftOutAreAnError) {
  spans::Lane lane = a_step();
  lane.left_out = 1;
  EXPECT_THROW(profile_of({lane}, 1, peaks), Error);
}

TEST(StepProfile, RanksAreAveragedThroughJson) {
  StepProfile mine = profile_of({a_step()}, 1, peaks);
  mine.memory = {{"weights", 100}};
  StepProfile other = profile_from_json(to_json(mine));
  EXPECT_EQ(to_json(other), to_json(mine));
  for (ProfileRow& r : other.kinds)
    for (double& seconds : r.seconds) seconds *= 3;
  other.seconds *= 3;
  other.memory[0].bytes = 300;
  const StepProfile mean = mean_of({mine, other});
  EXPECT_NEAR(mean.seconds, 0.2, 1e-12);
  EXPECT_NEAR(row(mean.kinds, "optimizer").total(), 0.040, 1e-12);
  EXPECT_EQ(mean.memory[0].bytes, 300);
}

}  // namespace
}  // namespace strata
