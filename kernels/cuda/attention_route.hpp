#pragma once
// Which attention goes through cuDNN, and as what; the rest are our own kernels.

#include <optional>

#include "kernels/cuda/graphs.hpp"
#include "kernels/ops.hpp"

namespace strata::cuda {

/// Rows that ragged plans are rounded up to, so that their number stays bounded.
inline constexpr std::int64_t sequence_bucket = 64;

/// The graph; none: our own kernels. compute_capability: 80, 90.
/// cuDNN 9.19 knows bf16, widths up to 128 in multiples of 8, causal masks of sequences with as
/// many queries as keys; backward with a fixed order of additions it knows ragged sequences on
/// sm_90 only.
std::optional<AttentionShape> route_attention(const Tensor& q, const Tensor& k,
                                              const Tensor& q_offsets, const Tensor& k_offsets,
                                              const ops::AttentionParams& p, bool backward,
                                              bool keeps_lse, int compute_capability);

/// Rows of the longest sequence; where the offsets lie on the device, p's bound of them.
std::int64_t longest_sequence(const Tensor& offsets, const ops::AttentionParams& p);
/// The rows that each sequence has, where all are known to have as many.
std::optional<std::int64_t> equal_rows(const Tensor& offsets);

}  // namespace strata::cuda
