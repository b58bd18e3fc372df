// Attention of newest positions over pages of keys and values: a block is a sequence and a query
// head, its warps take pages in turn and are joined at the end in their order.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/math.hpp"

namespace strata::cuda {

namespace {

constexpr int page = static_cast<int>(ops::page_positions);
constexpr int warps = 4, threads = warps * warp_size;
static_assert(page == 2 * warp_size, "a lane stands for two positions of a page");

struct Pages {
  const std::int64_t *pages, *lengths, *slots;
  std::int64_t a_row;
  int heads, key_heads, width;
  float scale, softcap;
  std::int64_t window;
};

/// The joined softmax of the warps: out (D) in `total`, all threads.
template <int columns>
__device__ void join(float (&out)[columns], float largest, float sum, float* shared, float& inverse,
                     int width) {
  __shared__ float largest_of[warps], sum_of[warps];
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  if (lane == 0) {
    largest_of[warp] = largest;
    sum_of[warp] = sum;
  }
  __syncthreads();
  float most = largest_of[0], total = 0;
  for (int w = 1; w < warps; ++w) most = fmaxf(most, largest_of[w]);
  for (int w = 0; w < warps; ++w)
    if (sum_of[w] > 0) total += sum_of[w] * portable::exp(largest_of[w] - most);
  inverse = 1.0f / total;
  const float share = sum > 0 ? portable::exp(largest - most) : 0.0f;
#pragma unroll
  for (int c = 0; c < columns; ++c)
    if (lane + warp_size * c < width) shared[warp * width + lane + warp_size * c] = out[c] * share;
  __syncthreads();
}

/// Grid (heads, sequences); shared memory for the query and for one row of output a warp.
template <int columns, class T>
__global__ void __launch_bounds__(threads)
    attention_paged_kernel(T* o, const T* q, const T* keys, const T* values, Pages p) {
  extern __shared__ float query[];
  float* outputs = query + p.width;
  const int head = blockIdx.x, warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const int key_head = head / (p.heads / p.key_heads);
  const std::int64_t row = (std::int64_t{blockIdx.y} * p.heads + head) * p.width;
  for (int c = threadIdx.x; c < p.width; c += threads) query[c] = to_float(q[row + c]) * p.scale;
  __syncthreads();
  const std::int64_t length = p.lengths[blockIdx.y];
  const std::int64_t begin = p.window < 0 ? 0 : max(std::int64_t{0}, length - 1 - p.window);

  float out[columns] = {}, largest = -INFINITY, sum = 0;
  for (std::int64_t m = begin / page + warp; m * page < length; m += warps) {
    const std::int64_t block =
        (p.pages[blockIdx.y * p.a_row + m] * p.key_heads + key_head) * page * p.width;
    float score[2] = {};
#pragma unroll 4
    for (int d = 0; d < p.width; ++d)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        score[i] += query[d] * to_float(keys[block + d * page + lane + i * warp_size]);
    bool seen[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t position = m * page + lane + i * warp_size;
      seen[i] = position >= begin && position < length;
      if (p.softcap != 0) score[i] = p.softcap * portable::tanh(score[i] / p.softcap);
      if (!seen[i]) score[i] = -INFINITY;  // whatever lies in the page behind the text's end
    }
    const float before = largest;
    largest = fmaxf(before, warp_max(fmaxf(score[0], score[1])));
    const float shrink = before == -INFINITY ? 0.0f : portable::exp(before - largest);
    float weight[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) weight[i] = seen[i] ? portable::exp(score[i] - largest) : 0.0f;
    sum = sum * shrink + warp_sum(weight[0] + weight[1]);
#pragma unroll
    for (int c = 0; c < columns; ++c) out[c] *= shrink;
    const int end = static_cast<int>(min(std::int64_t{page}, length - m * page));
    for (int place = static_cast<int>(max(std::int64_t{0}, begin - m * page)); place < end;
         ++place) {
      const float w =
          __shfl_sync(0xffffffffu, place < warp_size ? weight[0] : weight[1], place % warp_size);
      const T* value = values + block + place * p.width;
#pragma unroll
      for (int c = 0; c < columns; ++c)
        if (lane + warp_size * c < p.width) out[c] += w * to_float(value[lane + warp_size * c]);
    }
  }
  float inverse = 0;
  join(out, largest, sum, outputs, inverse, p.width);
  for (int c = threadIdx.x; c < p.width; c += threads) {
    float total = 0;
    for (int w = 0; w < warps; ++w) total += outputs[w * p.width + c];
    o[row + c] = from_float<T>(total * inverse);
  }
}

/// One thread a column of a row's head; grid (rows).
template <class T>
__global__ void __launch_bounds__(threads)
    store_in_pages_kernel(T* keys, T* values, const T* k, const T* v, Pages p) {
  const std::int64_t slot = p.slots[blockIdx.x];
  if (slot < 0) return;
  const std::int64_t place = slot % page;
  for (int i = threadIdx.x; i < p.key_heads * p.width; i += threads) {
    const int head = i / p.width, c = i % p.width;
    const std::int64_t block = (slot / page * p.key_heads + head) * page * p.width;
    const std::int64_t from = std::int64_t{blockIdx.x} * p.key_heads * p.width + i;
    keys[block + c * page + place] = k[from];
    values[block + place * p.width + c] = v[from];
  }
}

}  // namespace

void CudaBackend::store_in_pages(Exec& exec, Tensor keys, Tensor values, Tensor k, Tensor v,
                                 Tensor slots) {
  if (k.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  const Pages pages{.slots = upload(exec, slots).as<std::int64_t>(),
                    .key_heads = static_cast<int>(k.shape[1]),
                    .width = static_cast<int>(k.shape[2])};
  with_type(k.dtype, [&](auto type) {
    using T = decltype(type);
    store_in_pages_kernel<<<blocks(k.shape[0]), threads, 0, stream()>>>(
        keys.as<T>(), values.as<T>(), k.as<T>(), v.as<T>(), pages);
    STRATA_LAUNCHED("store_in_pages");
  });
}

void CudaBackend::attention_paged(Exec& exec, Tensor o, Tensor q, Tensor keys, Tensor values,
                                  Tensor pages, Tensor lengths, ops::AttentionParams p) {
  if (q.numel() == 0) return;
  STRATA_CHECK(q.shape[2] <= 512, "heads of {} columns", q.shape[2]);
  const ArenaScope scope(exec.arena);
  const Pages of{.pages = upload(exec, pages).as<std::int64_t>(),
                 .lengths = upload(exec, lengths).as<std::int64_t>(),
                 .a_row = pages.shape[1],
                 .heads = static_cast<int>(q.shape[1]),
                 .key_heads = static_cast<int>(keys.shape[1]),
                 .width = static_cast<int>(q.shape[2]),
                 .scale = p.scale,
                 .softcap = p.softcap,
                 .window = p.window};
  const dim3 grid(blocks(of.heads), grid_side(q.shape[0]));
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(of.width) * (warps + 1);
  with_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto columns) {
      attention_paged_kernel<columns><<<grid, threads, bytes, stream()>>>(
          o.as<T>(), q.as<T>(), keys.as<T>(), values.as<T>(), of);
      STRATA_LAUNCHED("attention_paged");
    };
    if (of.width <= 128)
      run(std::integral_constant<int, 4>{});
    else if (of.width <= 256)
      run(std::integral_constant<int, 8>{});
    else
      run(std::integral_constant<int, 16>{});
  });
}

}  // namespace strata::cuda
