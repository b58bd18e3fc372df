#include "data/sample_order.hpp"

#include <algorithm>
#include <bit>

#include "core/error.hpp"
#include "core/rng.hpp"

namespace strata {

namespace {
constexpr int rounds = 6;
constexpr std::uint32_t epoch_limit = 1u << 24;  // the counter's field for the epoch
}  // namespace

SampleOrder::SampleOrder(std::int64_t count, std::uint64_t seed) : count_(count), seed_(seed) {
  STRATA_CHECK(count >= 1, "{} samples", count);
  const int bits = std::bit_width(static_cast<std::uint64_t>(count - 1));
  half_bits_ = std::max((bits + 1) / 2, 1);
  STRATA_CHECK(half_bits_ <= 32, "{} samples", count);
}

std::int64_t SampleOrder::permute(std::int64_t index, std::uint32_t epoch) const {
  STRATA_CHECK(0 <= index && index < count_, "sample {} of {}", index, count_);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<std::uint64_t>(index);
  do {
    std::uint64_t left = x >> half_bits_, right = x & mask;
    for (std::uint32_t round = 0; round < rounds; ++round) {
      const auto word = random_block({seed_}, {right, epoch, Purpose::sample_order}, round)[0];
      const std::uint64_t mixed = left ^ (word & mask);
      left = right;
      right = mixed;
    }
    x = left << half_bits_ | right;
  } while (x >= static_cast<std::uint64_t>(count_));
  return static_cast<std::int64_t>(x);
}

SampleOrder::Position SampleOrder::at(std::uint64_t global_sample_counter) const {
  const auto count = static_cast<std::uint64_t>(count_);
  const std::uint64_t epoch = global_sample_counter / count;
  if (epoch >= epoch_limit) fail(Exit::usage, "epoch {}: there are at most {}", epoch, epoch_limit);
  const auto index = static_cast<std::int64_t>(global_sample_counter % count);
  return {permute(index, static_cast<std::uint32_t>(epoch)), static_cast<std::uint32_t>(epoch)};
}

}  // namespace strata
