#pragma once
// Sequences laid end to end, where their lengths are known on the device only.

#include "core/rng.hpp"
#include "kernels/cuda/graphs.hpp"

namespace strata::cuda {

/// Sequence b owns rows [begin(b), begin(b + 1)).
struct Sequences {
  const std::int64_t* offsets;  // (B+1); null: every sequence has `each` rows
  std::int64_t each = 0;
  STRATA_PORTABLE std::int64_t begin(std::int64_t b) const {
    return offsets ? offsets[b] : b * each;
  }
};

/// What cuDNN reads of ragged sequences: rows (B), and where elements begin (B+1).
struct RaggedCounts {
  std::int32_t *q_lengths, *k_lengths;
  std::int64_t *q_offsets, *k_offsets, *lse_offsets;
};

/// The entries of sequence b; b = B closes the offsets.
STRATA_PORTABLE void count_sequence(const RaggedCounts& to, const AttentionShape& s,
                                    const Sequences& queries, const Sequences& keys,
                                    std::int64_t b) {
  const std::int64_t q = queries.begin(b), k = keys.begin(b);
  to.q_offsets[b] = q * s.heads * s.width;
  to.k_offsets[b] = k * s.key_heads * s.width;
  to.lse_offsets[b] = q * s.heads;
  if (b == s.batch) return;
  to.q_lengths[b] = static_cast<std::int32_t>(queries.begin(b + 1) - q);
  to.k_lengths[b] = static_cast<std::int32_t>(keys.begin(b + 1) - k);
}

/// count_sequence for all of them.
void count_sequences(cudaStream_t stream, const RaggedCounts& to, const AttentionShape& shape,
                     const Sequences& queries, const Sequences& keys);

/// Rows (T,...) of the sequences without keys become zero.
void zero_keyless(cudaStream_t stream, const Tensor& rows, const Sequences& queries,
                  const Sequences& keys, std::int64_t batch);

/// Rows behind the last sequence become zero; offsets (B+1) on the device.
void zero_behind(cudaStream_t stream, const Tensor& rows, const Tensor& offsets);

}  // namespace strata::cuda
