#pragma once
// How the flat parameter buffer is cut: into buckets at parameter boundaries, and every bucket into
// one part a rank. ZeRO stage 2 (Rajbhandari et al., SC 2020, section 5) shards the flat buffer,
// not tensors, so that all ranks hold the same amount whatever the tensors' shapes.

#include <vector>

#include "dist/communicator.hpp"
#include "model/parameters.hpp"

namespace strata {

/// A run of this rank's elements: flat [begin, end) of the parameter buffer lies at `local` of the
/// rank's shard buffers.
struct ShardPiece {
  IndexRange flat;
  std::int64_t local = 0;
  bool operator==(const ShardPiece&) const = default;
};

struct Bucket {
  IndexRange flat;       // elements of the parameter buffer
  std::int64_t section;  // unit of the cut: rank r owns sections [r S/R, (r+1) S/R) of S
  std::int64_t part;     // elements a rank (the last ranks may have fewer)
  ShardPiece mine;       // may be empty
  int parameters = 0;    // how many parameters lie in it
};

class Sharding {
 public:
  /// Buckets of at least bucket_elements (the last one may be smaller).
  Sharding(const ParameterTable& table, std::int64_t bucket_elements, int rank, int size);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  int bucket_of(ParamId id) const { return bucket_of_[id]; }
  /// Elements of this rank's shard buffers.
  std::int64_t local_numel() const { return local_numel_; }
  std::int64_t largest_bucket() const { return largest_bucket_; }
  /// This rank's pieces in flat order, empty ones left out.
  std::vector<ShardPiece> pieces() const;
  /// Sections a bucket is cut into: the same for every rank count that divides 64.
  int sections() const { return sections_; }

 private:
  std::vector<Bucket> buckets_;
  std::vector<int> bucket_of_;
  std::int64_t local_numel_ = 0, largest_bucket_ = 0;
  int sections_ = 0;
};

}  // namespace strata
