// Attention through cuDNN: what surrounds its graphs. Our log-sum-exp lies as (rows, heads); equal
// sequences need it as (batch, heads, rows), so it is turned.

#include "kernels/cuda/attention_route.hpp"
#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/layout.hpp"

namespace strata::cuda {

namespace {

/// Rows of the sequences without keys: cuDNN leaves there what a division by nothing gives.
void zero_keyless(cudaStream_t stream, const AttentionRoute& route, const Tensor& rows,
                  const Tensor& offsets) {
  const auto* at = offsets.as<std::int64_t>();
  for (const int b : route.keyless) {
    const Tensor part = rows.rows(at[b], at[b + 1]);
    if (part.numel() > 0) STRATA_CUDA(cudaMemsetAsync(part.data, 0, part.bytes(), stream));
  }
}

}  // namespace

void CudaBackend::add_counts(Exec& exec, const AttentionRoute& route, AttentionData& data) {
  if (!route.shape.ragged) return;
  const auto& [lengths, offsets] = route.counts;
  const std::int64_t batch = route.shape.batch;
  const auto view = [](const auto& values) {
    return view_of(values.data(), {static_cast<std::int64_t>(values.size())});
  };
  auto* rows = upload(exec, view(lengths)).as<std::int32_t>();
  auto* elements = upload(exec, view(offsets)).as<std::int64_t>();
  data.q_lengths = rows;
  data.k_lengths = rows + batch;
  data.q_offsets = elements;
  data.k_offsets = elements + batch + 1;
  if (data.lse) data.lse_offsets = elements + 2 * (batch + 1);
}

void CudaBackend::vendor_attention(Exec& exec, const AttentionRoute& route, Tensor o, Tensor lse,
                                   Tensor q, Tensor k, Tensor v, Tensor q_offsets) {
  const AttentionShape& s = route.shape;
  const Tensor turned =
      lse && !s.ragged ? exec.empty(DType::f32, {s.batch, s.heads, s.queries}) : lse;
  AttentionData data{.q = q.data, .k = k.data, .v = v.data, .o = o.data, .lse = turned.data};
  add_counts(exec, route, data);
  graphs_.attention(exec, stream(), s, data);
  if (lse && !s.ragged) transpose(stream(), lse, turned, s.batch, s.queries, s.heads);
  zero_keyless(stream(), route, o, q_offsets);
}

void CudaBackend::vendor_attention_backward(Exec& exec, const AttentionRoute& route,
                                            const AttentionGradients& d, Tensor q, Tensor k,
                                            Tensor v, Tensor o, Tensor lse, Tensor q_offsets) {
  const AttentionShape& s = route.shape;
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
  add_counts(exec, route, data);
  graphs_.attention(exec, stream(), s, data);
  zero_keyless(stream(), route, d.dq, q_offsets);
}

}  // namespace strata::cuda
