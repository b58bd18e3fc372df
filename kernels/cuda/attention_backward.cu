// Attention backward: probabilities are computed again from the saved log-sum-exp. One kernel owns
// queries and sums over keys (dq), one owns keys and sums over queries (dk, dv): nothing is added
// by two blocks.

#include "kernels/cuda/attention.cuh"

namespace strata::cuda {

namespace tiles {

namespace {

/// correction (Tq,N) = dout . o, one warp a row and head.
template <class T>
__global__ void __launch_bounds__(threads)
    correction_kernel(float* correction, const T* dout, const T* o, int width, std::int64_t count) {
  const std::int64_t row = std::int64_t{blockIdx.x} * warps + threadIdx.x / warp_size;
  if (row >= count) return;
  float sum = 0;
  for (int c = threadIdx.x % warp_size; c < width; c += warp_size)
    sum += to_float(dout[row * width + c]) * to_float(o[row * width + c]);
  sum = warp_sum(sum);
  if (threadIdx.x % warp_size == 0) correction[row] = sum;
}

template <class T>
struct Inputs {
  const T *dout, *q, *k, *v;
  const float *lse, *correction;
};

/// Stores a warp's rows of a tile's result.
template <class Q, class T>
__device__ void store_rows(T* to, std::int64_t pitch, const float (&out)[Q::own][Q::columns],
                           int rows, int width, float factor) {
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
#pragma unroll
  for (int r = 0; r < Q::own; ++r) {
    const int row = warp * Q::own + r;
    if (row >= rows) continue;
#pragma unroll
    for (int c = 0; c < Q::columns; ++c)
      if (lane + warp_size * c < width)
        to[row * pitch + lane + warp_size * c] = from_float<T>(out[r][c] * factor);
  }
}

/// Grid (query tiles, heads, sequences).
template <class Q, class T>
__global__ void __launch_bounds__(threads) dq_kernel(T* dq, Inputs<T> in, Mask mask) {
  extern __shared__ float4 shared[];
  float* queries = reinterpret_cast<float*>(shared);
  float* gradients = queries + Q::rows * Q::pitch;
  float* keys = gradients + Q::rows * Q::pitch;
  float* values = keys + Q::rows * Q::pitch;
  const Span span(mask.q_offsets, mask.k_offsets, blockIdx.z);
  const int first = blockIdx.x * Q::rows, head = blockIdx.y;
  if (first >= span.queries) return;
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const int rows = min(Q::rows, span.queries - first);
  const std::int64_t q_pitch = std::int64_t{mask.heads} * mask.width;
  const std::int64_t k_pitch = std::int64_t{mask.key_heads} * mask.width;
  const std::int64_t q_at = (span.q_begin + first) * q_pitch + head * mask.width;
  const std::int64_t k_at = span.k_begin * k_pitch + mask.key_head(head) * mask.width;
  Q::load(queries, in.q + q_at, q_pitch, rows, mask.width, mask.scale);
  Q::load(gradients, in.dout + q_at, q_pitch, rows, mask.width);

  float out[Q::own][Q::columns] = {}, log_sum[Q::own], correction[Q::own];
#pragma unroll
  for (int r = 0; r < Q::own; ++r) {
    const int row = min(warp * Q::own + r, rows - 1);
    const std::int64_t stat = (span.q_begin + first + row) * mask.heads + head;
    log_sum[r] = in.lse[stat];
    correction[r] = in.correction[stat];
  }
  const int position = first + span.first_position();
  const int last = mask.last_key(position + rows - 1, span.keys);
  for (int key = 0; key < last; key += Q::rows) {
    const int count = min(Q::rows, span.keys - key);
    __syncthreads();
    Q::load(keys, in.k + k_at + key * k_pitch, k_pitch, count, mask.width);
    Q::load(values, in.v + k_at + key * k_pitch, k_pitch, count, mask.width);
    __syncthreads();
    float score[Q::own], weight[Q::own];
    Q::dots(score, queries, keys, warp, lane);
    Q::dots(weight, gradients, values, warp, lane);
#pragma unroll
    for (int r = 0; r < Q::own; ++r) {
      const bool seen = lane < count && mask.sees(position + warp * Q::own + r, key + lane);
      const float probability = seen ? portable::exp(score[r] - log_sum[r]) : 0.0f;
      weight[r] = probability * (weight[r] - correction[r]);
    }
    Q::mix(out, weight, keys, lane);
  }
  store_rows<Q>(dq + q_at, q_pitch, out, rows, mask.width, mask.scale);
}

/// Grid (key tiles, key heads, sequences); the heads that share a key head come one after the
/// other.
template <class Q, class T>
__global__ void __launch_bounds__(threads) dkv_kernel(T* dk, T* dv, Inputs<T> in, Mask mask) {
  extern __shared__ float4 shared[];
  float* keys = reinterpret_cast<float*>(shared);
  float* values = keys + Q::rows * Q::pitch;
  float* queries = values + Q::rows * Q::pitch;
  float* gradients = queries + Q::rows * Q::pitch;
  const Span span(mask.q_offsets, mask.k_offsets, blockIdx.z);
  const int first = blockIdx.x * Q::rows, key_head = blockIdx.y;
  if (first >= span.keys) return;
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const int rows = min(Q::rows, span.keys - first), group = mask.heads / mask.key_heads;
  const std::int64_t q_pitch = std::int64_t{mask.heads} * mask.width;
  const std::int64_t k_pitch = std::int64_t{mask.key_heads} * mask.width;
  const std::int64_t k_at = (span.k_begin + first) * k_pitch + key_head * mask.width;
  Q::load(keys, in.k + k_at, k_pitch, rows, mask.width);
  Q::load(values, in.v + k_at, k_pitch, rows, mask.width);

  float of_keys[Q::own][Q::columns] = {}, of_values[Q::own][Q::columns] = {};
  const int begin = mask.causal ? max(0, first - span.first_position()) / Q::rows * Q::rows : 0;
  for (int head = key_head * group; head < (key_head + 1) * group; ++head)
    for (int query = begin; query < span.queries; query += Q::rows) {
      const int count = min(Q::rows, span.queries - query);
      const std::int64_t q_at = (span.q_begin + query) * q_pitch + head * mask.width;
      __syncthreads();
      Q::load(queries, in.q + q_at, q_pitch, count, mask.width, mask.scale);
      Q::load(gradients, in.dout + q_at, q_pitch, count, mask.width);
      __syncthreads();
      const int mine = min(lane, count - 1);
      const std::int64_t stat = (span.q_begin + query + mine) * mask.heads + head;
      const float log_sum = in.lse[stat], correction = in.correction[stat];
      float probability[Q::own], weight[Q::own];
      Q::dots(probability, keys, queries, warp, lane);
      Q::dots(weight, values, gradients, warp, lane);
#pragma unroll
      for (int r = 0; r < Q::own; ++r) {
        const int key = first + warp * Q::own + r, position = span.first_position() + query + lane;
        const bool seen = lane < count && key < span.keys && mask.sees(position, key);
        probability[r] = seen ? portable::exp(probability[r] - log_sum) : 0.0f;
        weight[r] = probability[r] * (weight[r] - correction);
      }
      Q::mix(of_values, probability, gradients, lane);
      Q::mix(of_keys, weight, queries, lane);
    }
  store_rows<Q>(dk + k_at, k_pitch, of_keys, rows, mask.width, 1.0f);
  store_rows<Q>(dv + k_at, k_pitch, of_values, rows, mask.width, 1.0f);
}

template <class Q, class T>
void launch(cudaStream_t stream, const Tensor& dq, const Tensor& dk, const Tensor& dv,
            const Inputs<T>& in, const Mask& mask, std::int64_t longest_queries,
            std::int64_t longest_keys, unsigned batch) {
  constexpr int bytes = 4 * Q::bytes;
  const auto tiles_of = [](std::int64_t rows) { return blocks(ceil_div(rows, Q::rows)); };
  if (dq.numel() > 0 && longest_queries > 0) {
    const auto kernel = dq_kernel<Q, T>;
    allow_shared(kernel, bytes);
    kernel<<<dim3(tiles_of(longest_queries), grid_side(mask.heads), batch), threads, bytes,
             stream>>>(dq.as<T>(), in, mask);
    STRATA_LAUNCHED("attention_backward: dq");
  }
  if (dk.numel() > 0 && longest_keys > 0) {
    const auto kernel = dkv_kernel<Q, T>;
    allow_shared(kernel, bytes);
    kernel<<<dim3(tiles_of(longest_keys), grid_side(mask.key_heads), batch), threads, bytes,
             stream>>>(dk.as<T>(), dv.as<T>(), in, mask);
    STRATA_LAUNCHED("attention_backward: dk, dv");
  }
}

}  // namespace

}  // namespace tiles

void CudaBackend::attention_backward(Exec& exec, Tensor dq, Tensor dk, Tensor dv, Tensor dout,
                                     Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse,
                                     Tensor q_offsets, Tensor k_offsets, ops::AttentionParams p) {
  const ArenaScope scope(exec.arena);
  if (const auto route =
          route_attention(q, k, q_offsets, k_offsets, p, true, true, compute_capability_))
    vendor_attention_backward(exec, *route, {dq, dk, dv, dout}, q, k, v, o, lse, q_offsets,
                              k_offsets);
  else
    own_attention_backward(exec, {dq, dk, dv, dout}, q, k, v, o, lse, q_offsets, k_offsets, p);
  if (k_offsets.device == host_device) return;
  for (const Tensor& rows : {dk, dv}) zero_behind(stream(), rows, k_offsets);
}

void CudaBackend::own_attention_backward(Exec& exec, const AttentionGradients& d, Tensor q,
                                         Tensor k, Tensor v, Tensor o, Tensor lse, Tensor q_offsets,
                                         Tensor k_offsets, const ops::AttentionParams& p) {
  const std::int64_t longest_queries = longest_sequence(q_offsets, p);
  const std::int64_t longest_keys = longest_sequence(k_offsets, p);
  const unsigned batch = grid_side(q_offsets.numel() - 1);
  const tiles::Mask mask = mask_of(exec, q, k, q_offsets, k_offsets, p);
  const std::int64_t rows = lse.numel();
  const Tensor correction = exec.empty(DType::f32, lse.shape);
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    if (rows > 0) {
      tiles::
          correction_kernel<<<blocks(ceil_div(rows, tiles::warps)), tiles::threads, 0, stream()>>>(
              correction.as<float>(), d.dout.as<T>(), o.as<T>(), mask.width, rows);
      STRATA_LAUNCHED("attention_backward: correction");
    }
    const tiles::Inputs<T> in{d.dout.as<T>(), q.as<T>(),       k.as<T>(),
                              v.as<T>(),      lse.as<float>(), correction.as<float>()};
    const auto run = [&](auto tile) {
      tiles::launch<decltype(tile), T>(stream(), d.dq, d.dk, d.dv, in, mask, longest_queries,
                                       longest_keys, batch);
    };
    if (mask.width <= 64)
      run(tiles::Tile<64, 32>{});
    else if (mask.width <= 128)
      run(tiles::Tile<128, 32>{});
    else
      run(tiles::Tile<512, 16>{});
  });
}

}  // namespace strata::cuda
