#pragma once
// What Zero2 allocates on a rank: the same arithmetic for the buffers and for the plan of them.

#include "dist/zero2.hpp"

namespace strata {

/// Buckets of gradients that are written or on their way at once.
inline constexpr int most_in_flight = 3;

/// One rank's gradients need not go anywhere: they are written where their sum belongs.
bool adds_in_place(const Zero2Options& options, int ranks);
/// Of parameters, at least, a bucket.
std::int64_t bucket_elements(const Zero2Options& options);
/// Buffers of a whole bucket.
int slots_for(const Sharding& sharding, const Zero2Options& options, int ranks);
/// Elements of a bucket that arrive to be added to what other microbatches left.
std::int64_t incoming_elements(const Sharding& sharding, const Zero2Options& options, int ranks);
/// Partial sums that are kept at once while microbatches are added.
int levels_for(Reduction reduction, int microbatches);

Zero2Memory memory_of(const Sharding& sharding, const ParameterTable& table,
                      const Zero2Options& options, int ranks, int levels);

}  // namespace strata
