#pragma once
// Which captions share a batch. Batches are ragged, so none is padded; but the last rows of a batch
// that do not fill a block of the matrix product are worked on for nobody (ops::packed_rows).

#include <cstdint>
#include <span>
#include <vector>

namespace strata {

/// Tokens of one batch: enough to keep the matrix products busy, few enough to stay in cache
/// (docs/caching-text.md has the measurement).
inline constexpr std::int64_t batch_tokens = 2048;

/// The end of the batch of captions that begins at `first`: as many as stay within so many tokens,
/// at least one. offsets (n+1): where each caption's tokens begin, and their number.
std::int64_t end_of_batch(std::span<const std::int64_t> offsets, std::int64_t first,
                          std::int64_t tokens = batch_tokens);

/// An order of captions of these lengths that fills batches to the brim when they are cut by
/// end_of_batch: each takes the longest caption that still fits (first fit decreasing).
std::vector<std::int64_t> batch_order(std::span<const std::int64_t> lengths,
                                      std::int64_t tokens = batch_tokens);

}  // namespace strata
