#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/arena.hpp"
#include "core/progress.hpp"
#include "core/rng.hpp"
#include "core/stop_signals.hpp"
#include "core/transfer.hpp"

namespace strata {
namespace {

TEST(DType, Bf16RoundsToNearestEven) {
  EXPECT_EQ(to_bf16(1.0f).bits, 0x3f80);
  // Halfway between 1 and the next bf16: the even one, 1, wins; just above it, the next one.
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);  // rounds to infinity
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DType, Bf16RoundTripIsExact) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = to_float(bf16{static_cast<std::uint16_t>(bits)});
    if (std::isnan(x)) continue;
    EXPECT_EQ(to_bf16(x).bits, bits);
  }
}

TEST(Shape, CountsAndCompares) {
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{2, 0, 3}).numel(), 0);
  EXPECT_EQ((Shape{2, 3})[-1], 3);
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_EQ(to_string(Shape{2, 32, 32, 4}), "(2, 32, 32, 4)");
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), Error);
}

TEST(Tensor, ViewsShareMemoryAndCheckBounds) {
  std::vector<float> values(12);
  const Tensor t = view_of(values.data(), {4, 3});
  EXPECT_EQ(t.rows(1, 3).as<float>(), values.data() + 3);
  EXPECT_EQ(t.rows(1, 3).shape, (Shape{2, 3}));
  EXPECT_THROW(t.rows(2, 5), Error);
  EXPECT_THROW(t.reshape({5, 2}), Error);
  EXPECT_THROW(t.as<bf16>(), Error);
}

TEST(Arena, ReusesWhatAMarkReleases) {
  Arena arena(host_device, 1024);
  const auto mark = arena.mark();
  const Tensor a = arena.empty(DType::f32, {100});
  const Tensor b = arena.empty(DType::f32, {1000});  // larger than a chunk
  EXPECT_NE(a.data, b.data);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data) % 64, 0u);
  const auto peak = arena.peak_bytes();
  EXPECT_GE(peak, 4400u);
  arena.release(mark);
  EXPECT_EQ(arena.used_bytes(), 0u);
  EXPECT_EQ(arena.empty(DType::f32, {100}).data, a.data);
  EXPECT_EQ(arena.peak_bytes(), peak);
}

TEST(Arena, ScopesNest) {
  Arena arena;
  const Tensor kept = arena.empty(DType::f32, {8});
  std::byte* inner = nullptr;
  {
    ArenaScope scope(arena);
    inner = arena.empty(DType::f32, {8}).data;
  }
  EXPECT_EQ(arena.empty(DType::f32, {8}).data, inner);
  EXPECT_NE(kept.data, inner);
}

// The published known-answer tests of Philox4x32-10 (Random123's kat_vectors).
TEST(Philox, KnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0, 0),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, EveryPartOfTheCounterMatters) {
  std::set<std::array<std::uint32_t, 4>> seen;
  for (std::uint64_t seed : {1ull, 1ull << 32})
    for (std::uint64_t sample : {0ull, 1ull, 1ull << 32})
      for (std::uint32_t epoch : {0u, 1u})
        for (auto purpose : {Purpose::noise, Purpose::timestep})
          for (std::uint32_t block : {0u, 1u})
            seen.insert(random_block({seed}, {sample, epoch, purpose}, block));
  EXPECT_EQ(seen.size(), 2u * 3 * 2 * 2 * 2);
}

TEST(Philox, UniformsStayInRange) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_LT(uniform01(~0u), 1.0f);
  EXPECT_EQ(uniform_below(~0u, 1000), 999u);
  EXPECT_EQ(uniform_below(0, 1000), 0u);
}

TEST(Transfer, AHostTensorStaysWhereItIs) {
  Exec exec(host_device, 1);
  const std::vector<float> values{1, -2.5f, 3};
  const Tensor tensor = view_of(values.data(), {3});
  EXPECT_EQ(on_device(exec, tensor).data, tensor.data);
  EXPECT_FALSE(on_device(exec, {}));
  EXPECT_EQ(to_host(tensor), values);
  const bf16 rounded[] = {to_bf16(1), to_bf16(-2.5f), to_bf16(3)};
  EXPECT_EQ(to_host(view_of(rounded, {3})), values);
  EXPECT_EQ(exec.arena.used_bytes(), 0u);
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(7.6), "8s");
  EXPECT_EQ(format_duration(62), "1m02s");
  EXPECT_EQ(format_duration(3700), "1h01m");
  EXPECT_EQ(format_duration(90000), "1d01h");
}

TEST(StopSignals, AHeldSignalIsNotLost) {
  hold_stop_signals();
  raise(SIGUSR1);  // blocked: neither lost nor fatal
  StopSignals signals;
  EXPECT_TRUE(signals.requested());
  EXPECT_EQ(signals.name(), "USR1");
  EXPECT_THROW(check_stop(), Error);
  StopSignals again;
  check_stop();
  EXPECT_FALSE(again.requested());
  raise(SIGTERM);
  EXPECT_EQ(again.name(), "TERM");
}

}  // namespace
}  // namespace strata
