#pragma once
// How work is cut into blocks of threads: what can be known, and tested, without a device.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/error.hpp"

namespace strata::cuda {

constexpr int warp_size = 32;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// A grid's x extent; there are at most 2^31 - 1 blocks.
inline unsigned blocks(std::int64_t count) {
  STRATA_CHECK(count >= 0 && count < std::int64_t{1} << 31, "{} blocks", count);
  return static_cast<unsigned>(count);
}

/// A grid's y or z extent; there are at most 65535 blocks.
inline unsigned grid_side(std::int64_t count) {
  STRATA_CHECK(count >= 0 && count <= 65535, "{} blocks on a grid's side", count);
  return static_cast<unsigned>(count);
}

/// GroupNorm's cut of (B, pixels, C) into blocks: a block works on a chunk of a sample's pixels,
/// `layers` of them at once, its threads side by side on groups of n channels.
struct GroupNormCut {
  static constexpr int most_threads = 512;
  std::int64_t batch, pixels, chunks;
  int channels, columns, across, layers, chunk_pixels;

  GroupNormCut(std::int64_t batch_, std::int64_t pixels_, std::int64_t channels_, int n)
      : batch(batch_),
        pixels(pixels_),
        channels(static_cast<int>(channels_)),
        columns(channels / n),
        across(std::min(columns, most_threads)),
        layers(std::max(1, 256 / across)),
        chunk_pixels(std::max(64, 4 * layers)) {
    chunks = ceil_div(pixels, chunk_pixels);
  }
  /// Of sums of n channels a thread, two kinds.
  std::size_t shared_bytes(int n) const {
    return sizeof(float) * 2 * static_cast<std::size_t>(n) * static_cast<std::size_t>(across) *
           static_cast<std::size_t>(layers);
  }
};

/// LayerNorm's backward: rows whose parts of dw and db one group of threads adds up. Enough groups
/// to fill a device, few enough that their sums are small beside the rows.
inline int layer_norm_chunk(std::int64_t rows) {
  return static_cast<int>(std::clamp<std::int64_t>(rows / 2048, 8, 64));
}

/// Rows that a block of sum_rows adds up.
inline constexpr std::int64_t sum_rows_chunk = 256;

}  // namespace strata::cuda
