#include "kernels/cuda/attention_route.hpp"

#include <algorithm>

namespace strata::cuda {

namespace {

struct Lengths {
  std::vector<std::int64_t> values;
  explicit Lengths(const Tensor& offsets) {
    const auto* at = offsets.as<std::int64_t>();
    for (std::int64_t b = 0; b + 1 < offsets.numel(); ++b) values.push_back(at[b + 1] - at[b]);
  }
  std::int64_t longest() const { return *std::max_element(values.begin(), values.end()); }
  bool equal() const {
    return std::all_of(values.begin(), values.end(), [&](auto n) { return n == values.front(); });
  }
};

std::int64_t bucketed(std::int64_t rows) {
  return (rows + sequence_bucket - 1) / sequence_bucket * sequence_bucket;
}

RaggedCounts counts_of(const Lengths& queries, const Lengths& keys, const AttentionShape& s) {
  RaggedCounts counts;
  for (const Lengths* lengths : {&queries, &keys})
    for (const std::int64_t n : lengths->values)
      counts.lengths.push_back(static_cast<std::int32_t>(n));
  const auto cumulate = [&](const Lengths& lengths, std::int64_t elements_a_row) {
    std::int64_t at = 0;
    counts.offsets.push_back(at);
    for (const std::int64_t n : lengths.values) counts.offsets.push_back(at += n * elements_a_row);
  };
  cumulate(queries, s.heads * s.width);
  cumulate(keys, s.key_heads * s.width);
  cumulate(queries, s.heads);
  return counts;
}

}  // namespace

std::optional<AttentionRoute> route_attention(const Tensor& q, const Tensor& k,
                                              const Tensor& q_offsets, const Tensor& k_offsets,
                                              const ops::AttentionParams& p, bool backward,
                                              bool keeps_lse, int compute_capability) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  };
  const std::int64_t width = q.shape[2];
  const bool known = q.dtype == DType::bf16 && width % 8 == 0 && width <= 128 && p.window < 0 &&
                     p.softcap == 0 && !p.relative_bias && aligned(q) && aligned(k);
  if (!known || q.numel() == 0 || k.numel() == 0) return std::nullopt;
  const Lengths queries(q_offsets), keys(k_offsets);
  if (p.causal && queries.values != keys.values) return std::nullopt;
  AttentionRoute route;
  route.shape = {.batch = q_offsets.numel() - 1,
                 .heads = q.shape[1],
                 .key_heads = k.shape[1],
                 .width = width,
                 .queries = queries.longest(),
                 .keys = keys.longest(),
                 .ragged = !queries.equal() || !keys.equal(),
                 .causal = p.causal,
                 .scale = p.scale,
                 .backward = backward,
                 .keeps_lse = keeps_lse};
  if (!route.shape.ragged) return route;
  if (backward && compute_capability < 90) return std::nullopt;
  route.shape.queries = bucketed(route.shape.queries);
  route.shape.keys = bucketed(route.shape.keys);
  route.counts = counts_of(queries, keys, route.shape);
  for (std::size_t b = 0; b < keys.values.size(); ++b)
    if (keys.values[b] == 0) route.keyless.push_back(static_cast<int>(b));
  return route;
}

}  // namespace strata::cuda
