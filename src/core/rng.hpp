#pragma once
// Counter-based randomness: every number is a pure function of (seed, sample, epoch, purpose,
// block), so that neither ranks nor resumes can change it. Philox4x32-10 (Salmon et al., SC 2011).

#include <array>
#include <cstdint>

#ifdef __CUDACC__
#define STRATA_PORTABLE __host__ __device__ inline
#else
#define STRATA_PORTABLE inline
#endif

namespace strata {

/// What a draw is for; part of the counter, so draws for different purposes never overlap.
enum class Purpose : std::uint32_t {
  initialize = 0,
  noise = 1,
  timestep = 2,
  caption_drop = 3,
  posterior = 4,
  sample_order = 5,
  caption_choice = 6,
  image_noise = 7,
  holdout = 8,
  bootstrap = 9,
  generate = 10,
  next_token = 11,
};

struct PhiloxKey {
  std::uint64_t seed;
};

/// Counter words: block; purpose (8 bits) and epoch (24 bits); sample (64 bits).
struct PhiloxCounter {
  std::uint64_t sample;
  std::uint32_t epoch;
  Purpose purpose;
};

STRATA_PORTABLE std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c,
                                                        std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// Four uniform 32-bit integers of block `block`.
STRATA_PORTABLE std::array<std::uint32_t, 4> random_block(PhiloxKey key, PhiloxCounter at,
                                                          std::uint32_t block) {
  return philox4x32(
      {block, static_cast<std::uint32_t>(at.purpose) | (at.epoch << 8),
       static_cast<std::uint32_t>(at.sample), static_cast<std::uint32_t>(at.sample >> 32)},
      static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32));
}

/// Uniform in [0, 1) with 24 bits.
STRATA_PORTABLE float uniform01(std::uint32_t bits) {
  return (bits >> 8) * 0x1p-24f;
}

/// Uniform integer in [0, n), by the high half of a product (bias < n / 2^32).
STRATA_PORTABLE std::uint32_t uniform_below(std::uint32_t bits, std::uint32_t n) {
  return static_cast<std::uint32_t>((std::uint64_t{bits} * n) >> 32);
}

}  // namespace strata
