#pragma once
// Which attention goes through cuDNN, and as what; the rest are our own kernels.

#include <optional>
#include <vector>

#include "kernels/cuda/graphs.hpp"
#include "kernels/ops.hpp"

namespace strata::cuda {

/// What cuDNN reads on the device when sequences differ in length.
struct RaggedCounts {
  std::vector<std::int32_t> lengths;  // of queries (B), of keys (B)
  std::vector<std::int64_t> offsets;  // in elements of q (B+1), of k (B+1), of lse (B+1)
};

struct AttentionRoute {
  AttentionShape shape;
  RaggedCounts counts;       // empty unless ragged
  std::vector<int> keyless;  // sequences without keys: their rows are made zero afterwards
};

/// Rows that ragged plans are rounded up to, so that their number stays bounded.
inline constexpr std::int64_t sequence_bucket = 64;

/// None: our own kernels. compute_capability: 80, 90.
/// cuDNN 9.19 knows bf16, widths up to 128 in multiples of 8, causal masks of sequences with as
/// many queries as keys; backward with a fixed order of additions it knows ragged sequences on
/// sm_90 only.
std::optional<AttentionRoute> route_attention(const Tensor& q, const Tensor& k,
                                              const Tensor& q_offsets, const Tensor& k_offsets,
                                              const ops::AttentionParams& p, bool backward,
                                              bool keeps_lse, int compute_capability);

}  // namespace strata::cuda
