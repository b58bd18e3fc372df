// What is read is what was there at the snapshot, however the state changes meanwhile.

#include "train/snapshot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

namespace strata {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t elements = 900'001;  // pieces of a mebibyte, the last one odd
constexpr int states = 3;
constexpr std::size_t state_bytes = elements * sizeof(float);

struct States {
  States() {
    for (int s = 0; s < states; ++s) {
      buffers.emplace_back(DType::f32, Shape{elements});
      for (std::int64_t i = 0; i < elements; ++i)
        buffers[s].as<float>()[i] = static_cast<float>(i) + 0.25f * static_cast<float>(s);
    }
  }
  std::vector<Tensor> tensors() const { return {buffers.begin(), buffers.end()}; }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const Buffer& b : buffers) {
      const Tensor t = b;
      all.insert(all.end(), t.data, t.data + t.bytes());
    }
    return all;
  }
  void change(IndexRange range) {
    for (Buffer& b : buffers)
      for (std::int64_t i = range.begin; i < range.end; ++i) b.as<float>()[i] = -1;
  }
  std::vector<Buffer> buffers;
};

std::vector<std::byte> read_all(Snapshot& snapshot, std::size_t block) {
  std::vector<std::byte> all, part(block);
  while (const std::size_t n = snapshot.read(part.data(), block))
    all.insert(all.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(n));
  return all;
}

TEST(Snapshot, HoldsWhatWasThereWhoeverIsFaster) {
  std::mt19937 random(1);
  for (const std::size_t most_kept : {std::size_t{0}, std::size_t{2} << 20, std::size_t{1} << 30})
    for (int trial = 0; trial < 8; ++trial) {
      States state;
      const auto expected = state.bytes();
      Snapshot snapshot(state.tensors(), most_kept);
      std::vector<std::byte> got;
      std::thread reader([&, late = random() % 3] {
        std::this_thread::sleep_for(late * 2ms);
        got = read_all(snapshot, std::size_t{700'000} + random() % 3'000'000);
      });
      for (std::int64_t at = 0; at < elements; at += 77'777) {
        const IndexRange range{at, std::min(elements, at + 77'777)};
        snapshot.before_change(range);
        state.change(range);
      }
      reader.join();
      EXPECT_TRUE(got == expected) << most_kept << " " << trial;
      EXPECT_GT(snapshot.delay_seconds(), 0);
    }
}

TEST(Snapshot, CopiesIntoTheMemoryOfTheOneBefore) {
  Snapshot::Spare spare;
  const std::byte* first = nullptr;
  for (int save = 0; save < 3; ++save) {
    States state;
    const auto expected = state.bytes();
    Snapshot snapshot(state.tensors(), Snapshot::most_kept_bytes, Snapshot::default_patience,
                      std::move(spare));
    snapshot.before_change({0, 10});
    state.change({0, 10});
    EXPECT_TRUE(read_all(snapshot, 1'000'000) == expected) << save;
    spare = snapshot.take_spare();
    ASSERT_EQ(spare.size(), 3u);  // a piece of each state
    if (!first) first = spare.front().get();
    EXPECT_EQ(std::count_if(spare.begin(), spare.end(),
                            [&](const auto& piece) { return piece.get() == first; }),
              1);
  }
}

TEST(Snapshot, KeepsNoMoreThanAsked) {
  // Nobody reads and nothing may be kept: whoever wants to change waits, then takes it over.
  States state;
  Snapshot snapshot(state.tensors(), 0, 50ms);
  const auto start = std::chrono::steady_clock::now();
  snapshot.before_change({0, 10});
  EXPECT_GE(std::chrono::steady_clock::now() - start, 50ms);
  std::byte to[16];
  try {
    snapshot.read(to, sizeof to);
    ADD_FAILURE() << "an abandoned snapshot was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::io);
  }
  EXPECT_THROW(snapshot.check(), Error);
}

TEST(Snapshot, AReaderThatGoesOnIsWaitedFor) {
  States state;
  const auto expected = state.bytes();
  Snapshot snapshot(state.tensors(), 0, 400ms);
  std::vector<std::byte> got;
  std::thread reader([&] {
    std::byte part[1 << 18];
    while (const std::size_t n = snapshot.read(part, sizeof part)) {
      got.insert(got.end(), part, part + n);
      std::this_thread::sleep_for(15ms);  // all of it takes longer than the patience
    }
  });
  snapshot.before_change({0, elements});
  state.change({0, elements});
  reader.join();
  EXPECT_TRUE(got == expected);
}

TEST(Snapshot, OfNothingIsEmpty) {
  Snapshot snapshot({Tensor{nullptr, DType::f32, host_device, {0}}});
  std::byte to[16];
  EXPECT_EQ(snapshot.read(to, sizeof to), 0u);
  snapshot.before_change({0, 0});
}

}  // namespace
}  // namespace strata
