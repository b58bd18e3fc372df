// Attention forward.

#include "kernels/cuda/attention.cuh"

namespace strata::cuda {

namespace tiles {

namespace {

/// One head's tile of queries of one sequence: grid (query tiles, heads, sequences).
template <class Q, class T>
__global__ void __launch_bounds__(threads)
    attention_kernel(T* o, float* lse, const T* q, const T* k, const T* v, Mask mask) {
  extern __shared__ float4 shared[];
  float* queries = reinterpret_cast<float*>(shared);
  float* others = queries + Q::rows * Q::pitch;  // keys, then values
  const Span span(mask.q_offsets, mask.k_offsets, blockIdx.z);
  const int first = blockIdx.x * Q::rows, head = blockIdx.y;
  if (first >= span.queries) return;
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const int rows = min(Q::rows, span.queries - first);
  const std::int64_t q_pitch = std::int64_t{mask.heads} * mask.width;
  const std::int64_t k_pitch = std::int64_t{mask.key_heads} * mask.width;
  const std::int64_t q_at = (span.q_begin + first) * q_pitch + head * mask.width;
  const std::int64_t k_at = span.k_begin * k_pitch + mask.key_head(head) * mask.width;
  Q::load(queries, q + q_at, q_pitch, rows, mask.width, mask.scale);

  float out[Q::own][Q::columns] = {}, largest[Q::own], sum[Q::own] = {};
#pragma unroll
  for (int r = 0; r < Q::own; ++r) largest[r] = -INFINITY;
  const int position = first + span.first_position();
  const int last = mask.last_key(position + rows - 1, span.keys);
  for (int key = mask.first_key(position) / Q::rows * Q::rows; key < last; key += Q::rows) {
    const int count = min(Q::rows, span.keys - key);
    __syncthreads();
    Q::load(others, k + k_at + key * k_pitch, k_pitch, count, mask.width);
    __syncthreads();
    float weight[Q::own];
    Q::dots(weight, queries, others, warp, lane);
#pragma unroll
    for (int r = 0; r < Q::own; ++r) {
      const int at = position + warp * Q::own + r;
      const bool seen = lane < count && mask.sees(at, key + lane);
      const float score = seen ? mask.shaped(weight[r], head, at, key + lane) : -INFINITY;
      const float before = largest[r];
      largest[r] = fmaxf(before, warp_max(score));
      // Nothing seen so far: nothing to shrink either.
      const float shrink = before == -INFINITY ? 0.0f : portable::exp(before - largest[r]);
      weight[r] = seen ? portable::exp(score - largest[r]) : 0.0f;
      sum[r] = sum[r] * shrink + warp_sum(weight[r]);
#pragma unroll
      for (int c = 0; c < Q::columns; ++c) out[r][c] *= shrink;
    }
    __syncthreads();
    Q::load(others, v + k_at + key * k_pitch, k_pitch, count, mask.width);
    __syncthreads();
    Q::mix(out, weight, others, lane);
  }
#pragma unroll
  for (int r = 0; r < Q::own; ++r) {
    const int row = warp * Q::own + r;
    if (row >= rows) continue;
    const float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;  // without keys: zero
    T* to = o + q_at + row * q_pitch;
#pragma unroll
    for (int c = 0; c < Q::columns; ++c)
      if (lane + warp_size * c < mask.width)
        to[lane + warp_size * c] = from_float<T>(out[r][c] * inverse);
    if (lse && lane == 0)
      lse[(span.q_begin + first + row) * mask.heads + head] = largest[r] + logf(sum[r]);
  }
}

template <class Q, class T>
void launch(cudaStream_t stream, const Tensor& o, const Tensor& lse, const Tensor& q,
            const Tensor& k, const Tensor& v, const Mask& mask, std::int64_t longest_queries,
            std::int64_t batch) {
  constexpr int bytes = 2 * Q::bytes;
  const auto kernel = attention_kernel<Q, T>;
  allow_shared(kernel, bytes);
  const dim3 grid(blocks(ceil_div(longest_queries, Q::rows)), grid_side(mask.heads),
                  grid_side(batch));
  kernel<<<grid, threads, bytes, stream>>>(o.as<T>(), optional<float>(lse), q.as<T>(), k.as<T>(),
                                           v.as<T>(), mask);
  STRATA_LAUNCHED("attention");
}

}  // namespace

}  // namespace tiles

tiles::Mask CudaBackend::mask_of(Exec& exec, const Tensor& q, const Tensor& k,
                                 const Tensor& q_offsets, const Tensor& k_offsets,
                                 const ops::AttentionParams& p) {
  STRATA_CHECK(q.shape[2] <= 512, "heads of {} columns", q.shape[2]);
  const Tensor& bias = p.relative_bias;
  return {.q_offsets = upload(exec, q_offsets).as<std::int64_t>(),
          .k_offsets = upload(exec, k_offsets).as<std::int64_t>(),
          .bias = optional<float>(bias),
          .reach = bias ? static_cast<int>(bias.shape[1] / 2) : 0,
          .heads = static_cast<int>(q.shape[1]),
          .key_heads = static_cast<int>(k.shape[1]),
          .width = static_cast<int>(q.shape[2]),
          .scale = p.scale,
          .softcap = p.softcap,
          .window = p.window,
          .causal = p.causal};
}

void CudaBackend::attention(Exec& exec, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v,
                            Tensor q_offsets, Tensor k_offsets, ops::AttentionParams p) {
  if (q.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  if (const auto route =
          route_attention(q, k, q_offsets, k_offsets, p, false, bool(lse), compute_capability_))
    return vendor_attention(exec, *route, o, lse, q, k, v, q_offsets, k_offsets);
  const tiles::Mask mask = mask_of(exec, q, k, q_offsets, k_offsets, p);
  const std::int64_t longest = longest_sequence(q_offsets, p), batch = q_offsets.numel() - 1;
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto tile) {
      tiles::launch<decltype(tile), T>(stream(), o, lse, q, k, v, mask, longest, batch);
    };
    if (mask.width <= 64)
      run(tiles::Tile<64, 32>{});
    else if (mask.width <= 128)
      run(tiles::Tile<128, 32>{});
    else if (mask.width <= 256)
      run(tiles::Tile<256, 32>{});
    else
      run(tiles::Tile<512, 32>{});
  });
}

}  // namespace strata::cuda
