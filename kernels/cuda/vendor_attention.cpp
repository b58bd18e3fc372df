// Attention through cuDNN: what surrounds its graphs. Our log-sum-exp lies as (rows, heads); equal
// sequences need it as (batch, heads, rows), so it is turned.

#include "kernels/cuda/attention_route.hpp"
#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/layout.hpp"

namespace strata::cuda {

AttentionCounts CudaBackend::counts_of(Exec& exec, const AttentionShape& s, const Tensor& q_offsets,
                                       const Tensor& k_offsets) {
  const auto each = equal_rows(q_offsets);
  AttentionCounts counts;
  counts.queries = {each ? nullptr : upload(exec, q_offsets).as<std::int64_t>(), each.value_or(0)};
  counts.keys = {upload(exec, k_offsets).as<std::int64_t>()};
  const auto lengths = [&] { return exec.empty(DType::i32, {s.batch}).as<std::int32_t>(); };
  const auto offsets = [&] { return exec.empty(DType::i64, {s.batch + 1}).as<std::int64_t>(); };
  counts.of_graph = {lengths(), lengths(), offsets(), offsets(), offsets()};
  count_sequences(stream(), counts.of_graph, s, counts.queries, counts.keys);
  return counts;
}

namespace {

void add_counts(AttentionData& data, const AttentionCounts& counts) {
  data.q_lengths = counts.of_graph.q_lengths;
  data.k_lengths = counts.of_graph.k_lengths;
  data.q_offsets = counts.of_graph.q_offsets;
  data.k_offsets = counts.of_graph.k_offsets;
  if (data.lse) data.lse_offsets = counts.of_graph.lse_offsets;
}

}  // namespace

void CudaBackend::vendor_attention(Exec& exec, const AttentionShape& s, Tensor o, Tensor lse,
                                   Tensor q, Tensor k, Tensor v, Tensor q_offsets,
                                   Tensor k_offsets) {
  const Tensor turned =
      lse && !s.ragged ? exec.empty(DType::f32, {s.batch, s.heads, s.queries}) : lse;
  AttentionData data{.q = q.data, .k = k.data, .v = v.data, .o = o.data, .lse = turned.data};
  if (!s.ragged) {
    graphs_.attention(exec, stream(), s, data);
    if (lse) transpose(stream(), lse, turned, s.batch, s.queries, s.heads);
    return;
  }
  const AttentionCounts counts = counts_of(exec, s, q_offsets, k_offsets);
  add_counts(data, counts);
  graphs_.attention(exec, stream(), s, data);
  // cuDNN leaves there what a division by nothing gives.
  zero_keyless(stream(), o, counts.queries, counts.keys, s.batch);
}

void CudaBackend::vendor_attention_backward(Exec& exec, const AttentionShape& s,
                                            const AttentionGradients& d, Tensor q, Tensor k,
                                            Tensor v, Tensor o, Tensor lse, Tensor q_offsets,
                                            Tensor k_offsets) {
  Tensor turned = lse;
  if (!s.ragged) {
    turned = exec.empty(DType::f32, {s.batch, s.heads, s.queries});
    transpose(stream(), turned, lse, s.batch, s.heads, s.queries);
  }
  AttentionData data{.q = q.data,
                     .k = k.data,
                     .v = v.data,
                     .o = o.data,
                     .lse = turned.data,
                     .dq = d.dq.data,
                     .dk = d.dk.data,
                     .dv = d.dv.data,
                     .dout = d.dout.data};
  if (!s.ragged) return graphs_.attention(exec, stream(), s, data);
  const AttentionCounts counts = counts_of(exec, s, q_offsets, k_offsets);
  add_counts(data, counts);
  graphs_.attention(exec, stream(), s, data);
  zero_keyless(stream(), d.dq, counts.queries, counts.keys, s.batch);
}

}  // namespace strata::cuda
