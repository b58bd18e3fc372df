#pragma once
// The order of samples: a keyed bijection of [0, count) for each epoch, a pure function of (seed,
// epoch), so that the state of the data order is one global sample counter, whatever the ranks.

#include <cstdint>

namespace strata {

class SampleOrder {
 public:
  /// count >= 1.
  SampleOrder(std::int64_t count, std::uint64_t seed);

  struct Position {
    std::int64_t sample_index = 0;  // in [0, count)
    std::uint32_t epoch = 0;
  };
  /// The sample that the counter-th draw of the run sees; every epoch sees each sample once.
  Position at(std::uint64_t global_sample_counter) const;

  /// The bijection itself: Feistel network of 6 rounds keyed by Philox over the next power of 4,
  /// walked along its cycle until it falls into [0, count) (Black & Rogaway 2002).
  std::int64_t permute(std::int64_t index, std::uint32_t epoch) const;

  std::int64_t count() const { return count_; }
  std::uint64_t seed() const { return seed_; }

 private:
  std::int64_t count_;
  std::uint64_t seed_;
  int half_bits_;
};

}  // namespace strata
