#include "core/spans.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

using namespace strata;

TEST(Spans, NothingIsKeptUntilItIsAskedFor) {
  { const spans::Span span("before", "test"); }
  spans::start();
  EXPECT_TRUE(spans::are_kept());
  EXPECT_TRUE(spans::stop().empty());
  EXPECT_FALSE(spans::are_kept());
}

TEST(Spans, ASpanThatBeganBeforeOrEndsAfterIsNotKept) {
  {
    std::optional<spans::Span> early(std::in_place, "early", "test");
    spans::start();
    const spans::Span late("late", "test");
    early.reset();
    const auto lanes = spans::stop();
    EXPECT_TRUE(lanes.empty());
    spans::start();
  }
  EXPECT_TRUE(spans::stop().empty()) << "it began in an earlier recording";
}

TEST(Spans, LanesAreThreadsAndSpansContainEachOther) {
  spans::start();
  {
    const spans::Span outer("outer", "test");
    const spans::Span inner("inner", "test", 7);
  }
  std::thread([] {
    spans::name_thread("helper");
    const spans::Span span("elsewhere", "other");
  }).join();
  const auto lanes = spans::stop();
  ASSERT_EQ(lanes.size(), 2u);
  EXPECT_EQ(lanes[0].thread, "main");
  ASSERT_EQ(lanes[0].events.size(), 2u);
  const auto &inner = lanes[0].events[0], &outer = lanes[0].events[1];
  EXPECT_EQ(inner.name, "inner 7");
  EXPECT_EQ(outer.name, "outer");
  EXPECT_LE(outer.begin, inner.begin);
  EXPECT_LE(inner.begin, inner.end);
  EXPECT_LE(inner.end, outer.end);
  EXPECT_EQ(lanes[1].thread, "helper");
  EXPECT_STREQ(lanes[1].events.at(0).kind, "other");
}

TEST(Spans, ARecordingKeepsNothingOfTheOneBefore) {
  for (int i = 0; i < 2; ++i) {
    spans::start();
    { const spans::Span span("step", "test", i); }
    const auto lanes = spans::stop();
    ASSERT_EQ(lanes.size(), 1u);
    ASSERT_EQ(lanes[0].events.size(), 1u);
    EXPECT_EQ(lanes[0].events[0].name, "step " + std::to_string(i));
  }
}

TEST(Spans, ATraceIsJsonWithALaneAThreadAndMicrosecondsFromZero) {
  spans::ProcessLanes process{.process = 3, .name = "rank 3", .zero = 1000, .lanes = {}};
  process.lanes.push_back({"main", {{"a \"quoted\" name", "kind", 3500, 5000}}, 2});
  const auto trace = nlohmann::json::parse(
      spans::trace_of({spans::trace_events(process), spans::trace_events({4, "rank 4", 0, {}})}));
  const auto& events = trace.at("traceEvents");
  ASSERT_EQ(events.size(), 4u + 2u + 2u);
  EXPECT_EQ(events[0].at("args").at("name"), "rank 3");
  EXPECT_EQ(events[2].at("args").at("name"), "main");
  EXPECT_EQ(events[4].at("name"), "a \"quoted\" name");
  EXPECT_EQ(events[4].at("pid"), 3);
  EXPECT_DOUBLE_EQ(events[4].at("ts").get<double>(), 2.5);
  EXPECT_DOUBLE_EQ(events[4].at("dur").get<double>(), 1.5);
  EXPECT_EQ(events[5].at("name"), "2 spans left out");
}
