// Recordings and what goes between host and device, as far as the host knows of them.

#include "core/replay.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "core/feed.hpp"
#include "core/row_buckets.hpp"
#include "kernels/ops.hpp"

namespace strata {
namespace {

/// Counts what a device would do.
class Device : public testing::Test {
 protected:
  struct Played : Recording {
    explicit Played(int& plays) : plays(plays) {}
    void play() override { ++plays; }
    int& plays;
  };
  Replays replays(bool enabled = true) {
    return Replays(arena_, enabled, [this](const std::function<void()>& body) {
      ++recorded_;
      body();
      return std::make_unique<Played>(plays_);
    });
  }
  Arena arena_;
  int calls_ = 0, recorded_ = 0, plays_ = 0;
};

TEST_F(Device, ABodyIsCalledThenRecordedThenPlayed) {
  auto bodies = replays();
  const auto body = [&] { ++calls_; };
  EXPECT_TRUE(bodies.run(7, body));
  EXPECT_EQ(std::tuple(calls_, recorded_, plays_), std::tuple(1, 0, 0));
  EXPECT_TRUE(bodies.run(7, body));
  EXPECT_EQ(std::tuple(calls_, recorded_, plays_), std::tuple(2, 1, 1));
  EXPECT_FALSE(bodies.run(7, body));
  EXPECT_FALSE(bodies.run(7, body));
  EXPECT_EQ(std::tuple(calls_, recorded_, plays_), std::tuple(2, 1, 3));
  EXPECT_TRUE(bodies.run(8, body)) << "another key is another body";
  EXPECT_EQ(bodies.recordings(), 1u);
}

TEST_F(Device, DisabledEveryBodyIsCalled) {
  auto bodies = replays(false);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bodies.run(1, [&] { ++calls_; }));
  EXPECT_EQ(std::tuple(calls_, recorded_, plays_), std::tuple(3, 0, 0));
}

TEST_F(Device, RecordingsAreBoundedAndTheRestIsCalled) {
  auto bodies = replays();
  for (std::int64_t key = 0; key < 40; ++key)
    for (int i = 0; i < 3; ++i) bodies.run(key, [&] { ++calls_; });
  EXPECT_EQ(bodies.recordings(), Replays::most);
  EXPECT_EQ(plays_, 2 * static_cast<int>(Replays::most));
  EXPECT_EQ(calls_, 40 * 3 - static_cast<int>(Replays::most));
}

TEST_F(Device, APlaceInTheArenaIsPartOfTheRecording) {
  auto bodies = replays();
  for (int i = 0; i < 2; ++i) bodies.run(1, [] {});
  const ArenaScope scope(arena_);
  arena_.empty(DType::f32, {16});
  EXPECT_THROW(bodies.run(1, [] {}), Error);
}

TEST(Recording, BodiesThatADeviceCouldNotRecordFailOnTheHostToo) {
  Exec exec(host_device, 1);
  std::vector<std::byte> bytes(64);
  const std::pair<const char*, std::function<void()>> wrong[] = {
      {"wait", [&] { exec.synchronize(); }},
      {"allocate", [&] { Buffer(DType::f32, {4}); }},
      {"copy",
       [&] { memory::copy(bytes.data(), host_device, bytes.data() + 32, host_device, 32); }},
      {"record", [&] { exec.record([] {}); }}};
  for (const auto& [what, body] : wrong) {
    SCOPED_TRACE(what);
    EXPECT_NO_THROW(body());
    try {
      exec.record(body);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::internal);
      EXPECT_NE(std::string(error.what()).find("while ops are recorded"), std::string::npos)
          << error.what();
    }
    EXPECT_NO_THROW(body()) << "the recording is over";
  }
}

/// The rules of CUDA's captures, as far as a device that is not there can keep them.
TEST(Recording, WaitsStayInsideOfIt) {
  Exec exec(counted_device, 1), other(counted_device, 1);
  const auto moment = exec.make_moment();
  const auto work = [](Exec& on) { on.copy(nullptr, nullptr, 1); };
  const auto message = [&](const std::function<void()>& body) -> std::string {
    try {
      EXPECT_NE(exec.record(body), nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::internal);
      return error.what();
    }
    return "";
  };
  const auto there = [&] {
    work(exec);
    other.wait_for(exec);
    work(other);
  };
  EXPECT_EQ(message([&] {
              there();
              other.mark(*moment);
              exec.wait_for(*moment);
            }),
            "");
  EXPECT_THROW(exec.wait_for(*moment), Error) << "that is over";
  exec.mark(*moment);
  EXPECT_NO_THROW(other.wait_for(*moment));
  const std::string across = "ops wait for others across the bounds of a recording";
  EXPECT_EQ(message([&] { exec.wait_for(other); }), across);
  EXPECT_EQ(message([&] { exec.wait_for(*moment); }), across);
  EXPECT_NE(message(there).find("ends before ops"), std::string::npos);
  EXPECT_NE(message([&] {
              there();
              exec.wait_for(other);
              work(other);
            }).find("ends before ops"),
            std::string::npos);
  EXPECT_NE(message([&] { moment->is_reached(); }).find("while ops are recorded"),
            std::string::npos);
  EXPECT_EQ(message([&] {
              there();
              exec.wait_for(other);
            }),
            "")
      << "what went wrong is over";
}

TEST(Recording, OpsAndTemporariesOfAWarmArenaMayBeRecorded) {
  Exec exec(host_device, 1);
  const Tensor x = exec.empty(DType::f32, {64});
  const auto body = [&] {
    const ArenaScope scope(exec.arena);
    const Tensor y = exec.empty(DType::f32, {64});
    ops::fill(exec, y, 2.0f);
    ops::add(exec, x, y, y);
  };
  body();
  EXPECT_EQ(exec.record(body), nullptr) << "the host does the ops";
  EXPECT_EQ(x.as<float>()[63], 4.0f);
}

TEST(RowBuckets, HoldEveryLengthInFewNumbersOfRows) {
  const RowBuckets none;
  EXPECT_EQ(none.rows_for(0), 0);
  EXPECT_EQ(none.rows_for(77), 77);
  for (const std::int64_t most : {1, 7, 8, 4928, 4931})
    for (const int count : {1, 4, 8}) {
      const RowBuckets buckets(most, count);
      std::set<std::int64_t> rows;
      std::int64_t before = 0;
      for (std::int64_t tokens = 0; tokens <= most; ++tokens) {
        const std::int64_t here = buckets.rows_for(tokens);
        ASSERT_GE(here, std::max<std::int64_t>(1, tokens));
        ASSERT_GE(here, before);
        rows.insert(before = here);
      }
      EXPECT_LE(static_cast<int>(rows.size()), count) << most;
      EXPECT_LE(*rows.rbegin(), buckets.most_rows());
    }
}

TEST(RowBuckets, AreWholeUnits) {
  const RowBuckets buckets(700, 8, 128);
  EXPECT_EQ(buckets.rows_for(0), 128);
  EXPECT_EQ(buckets.rows_for(129), 256);
  EXPECT_EQ(buckets.rows_for(700), 768);
  EXPECT_EQ(buckets.most_rows(), 1024);
  EXPECT_THROW(buckets.rows_for(1025), Error);
}

TEST(Feed, ShowsTheLastInputAtOnePlace) {
  Exec exec(host_device, 1);
  Feed feed(exec, 16);
  const std::byte* place = feed.memory();
  for (const int value : {1, 2, 3}) {
    std::memset(feed.begin(), value, 16);
    feed.send(8);
    EXPECT_EQ(feed.memory(), place);
    EXPECT_EQ(std::to_integer<int>(place[7]), value);
  }
}

TEST(Feed, CostsThreeOfItOnADeviceAndTwoPinned) {
  EXPECT_EQ(Feed::cost({DeviceKind::cuda, 0}, 100).device, 300);
  EXPECT_EQ(Feed::cost({DeviceKind::cuda, 0}, 100).pinned, 200);
  EXPECT_EQ(Feed::cost(host_device, 100).device, 100);
  EXPECT_EQ(Feed::cost(host_device, 100).pinned, 0);
}

TEST(Readback, KeepsSlotsApart) {
  Exec exec(host_device, 1);
  Readback back(exec, 12, 2);
  const float first[] = {1, 2}, second[] = {3};
  back.take(0, 0, view_of(first, {2}));
  back.take(0, 8, view_of(second, {1}));
  back.take(1, 4, view_of(second, {1}));
  back.close(0);
  EXPECT_TRUE(back.moment(0).is_reached());
  EXPECT_EQ(std::memcmp(back.at(0), first, sizeof first), 0);
  EXPECT_EQ(std::memcmp(back.at(0) + 8, second, sizeof second), 0);
  EXPECT_EQ(std::memcmp(back.at(1) + 4, second, sizeof second), 0);
  EXPECT_THROW(back.take(1, 63, view_of(first, {2})), Error);
}

}  // namespace
}  // namespace strata
