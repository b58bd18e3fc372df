#include "kernels/cuda/attention_route.hpp"

#include <algorithm>

namespace strata::cuda {

namespace {

std::int64_t bucketed(std::int64_t rows) {
  return (rows + sequence_bucket - 1) / sequence_bucket * sequence_bucket;
}

/// Whether they are known to be.
bool same(const Tensor& a, const Tensor& b) {
  if (a.data == b.data) return true;
  if (!(a.device == host_device && b.device == host_device)) return false;
  return a.numel() == b.numel() &&
         std::equal(a.as<std::int64_t>(), a.as<std::int64_t>() + a.numel(), b.as<std::int64_t>());
}

}  // namespace

std::int64_t longest_sequence(const Tensor& offsets, const ops::AttentionParams& p) {
  if (!(offsets.device == host_device)) return p.longest_keys;
  const auto* at = offsets.as<std::int64_t>();
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b + 1 < offsets.numel(); ++b)
    longest = std::max(longest, at[b + 1] - at[b]);
  STRATA_CHECK(longest < std::int64_t{1} << 30, "a sequence of {}", longest);
  return longest;
}

std::optional<std::int64_t> equal_rows(const Tensor& offsets) {
  if (!(offsets.device == host_device)) return std::nullopt;
  const auto* at = offsets.as<std::int64_t>();
  for (std::int64_t b = 1; b + 1 < offsets.numel(); ++b)
    if (at[b + 1] - at[b] != at[1] - at[0]) return std::nullopt;
  return offsets.numel() > 1 ? at[1] - at[0] : 0;
}

std::optional<AttentionShape> route_attention(const Tensor& q, const Tensor& k,
                                              const Tensor& q_offsets, const Tensor& k_offsets,
                                              const ops::AttentionParams& p, bool backward,
                                              bool keeps_lse, int compute_capability) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  };
  const std::int64_t width = q.shape[2];
  const bool known = q.dtype == DType::bf16 && width % 8 == 0 && width <= 128 && p.softcap == 0 &&
                     !p.relative_bias && aligned(q) && aligned(k);
  if (!known || q.numel() == 0 || k.numel() == 0) return std::nullopt;
  // A window as long as the longest text hides nothing.
  if (p.window >= 0 && p.window + 1 < longest_sequence(k_offsets, p)) return std::nullopt;
  if (p.causal && !same(q_offsets, k_offsets)) return std::nullopt;
  AttentionShape shape{.batch = q_offsets.numel() - 1,
                       .heads = q.shape[1],
                       .key_heads = k.shape[1],
                       .width = width,
                       .queries = longest_sequence(q_offsets, p),
                       .keys = longest_sequence(k_offsets, p),
                       .ragged = !equal_rows(q_offsets) || !equal_rows(k_offsets),
                       .causal = p.causal,
                       .scale = p.scale,
                       .backward = backward,
                       .keeps_lse = keeps_lse};
  if (shape.keys == 0) return std::nullopt;  // rows of nobody only
  if (!shape.ragged) return shape;
  if (backward && compute_capability < 90) return std::nullopt;
  shape.queries = bucketed(shape.queries);
  shape.keys = bucketed(shape.keys);
  return shape;
}

}  // namespace strata::cuda
