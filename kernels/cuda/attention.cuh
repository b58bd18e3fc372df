#pragma once
// Our own softmax attention on f32 tiles in shared memory (Dao et al., FlashAttention, 2022): what
// every mask, cap and bias goes through, in both dtypes. A warp owns some rows of a tile and its
// lanes stand for the rows of the other side, so that sums never cross warps and never depend on
// the order in which blocks run.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/math.hpp"

namespace strata::cuda::tiles {

constexpr int warps = 8, threads = warps * warp_size;

/// Tiles of `rows` rows of up to `width` columns. Rows are padded so that the lanes of a warp, each
/// reading 16 bytes of its own row, use all banks.
template <int width_, int rows_>
struct Tile {
  static constexpr int width = width_, rows = rows_, pitch = width + 4;
  static constexpr int own = rows / warps;           // rows that a warp owns
  static constexpr int columns = width / warp_size;  // of its output, per lane
  static constexpr int bytes = rows * pitch * static_cast<int>(sizeof(float));
  static_assert(rows <= warp_size && rows % warps == 0 && width % warp_size == 0);

  /// Rows [0, count) of `from` times `factor`; rows and columns beyond are zero. The whole block.
  template <class T>
  static __device__ void load(float* tile, const T* from, std::int64_t pitch_of_rows, int count,
                              int head_width, float factor = 1.0f) {
    constexpr int n = wide<T>;
    const bool whole = head_width % n == 0 && pitch_of_rows % n == 0 &&
                       reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
    if (whole)
      load_by<n>(tile, from, pitch_of_rows, count, head_width, factor);
    else
      load_by<1>(tile, from, pitch_of_rows, count, head_width, factor);
  }

  template <int n, class T>
  static __device__ void load_by(float* tile, const T* from, std::int64_t pitch_of_rows, int count,
                                 int head_width, float factor) {
    constexpr int groups = width / n;
    for (int i = threadIdx.x; i < rows * groups; i += threads) {
      const int row = i / groups, column = i % groups * n;
      Vec<float, n> to{};
      if (row < count && column < head_width) {
        const auto values = Vec<T, n>::load(from + row * pitch_of_rows + column);
#pragma unroll
        for (int k = 0; k < n; ++k) to.v[k] = to_float(values.v[k]) * factor;
      }
      to.store(tile + row * pitch + column);
    }
  }

  /// product[r] = (own row r of the warp in a) . (row `lane` of b).
  static __device__ void dots(float (&product)[own], const float* a, const float* b, int warp,
                              int lane) {
#pragma unroll
    for (int r = 0; r < own; ++r) product[r] = 0;
    const float* theirs = b + min(lane, rows - 1) * pitch;
#pragma unroll 4
    for (int d = 0; d < width; d += 4) {
      const float4 y = *reinterpret_cast<const float4*>(theirs + d);
#pragma unroll
      for (int r = 0; r < own; ++r) {
        const float4 x = *reinterpret_cast<const float4*>(a + (warp * own + r) * pitch + d);
        product[r] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
    }
  }

  /// out[r][c] += sum over the lanes' weight[r] of row `lane` of b, column lane + 32 c.
  static __device__ void mix(float (&out)[own][columns], const float (&weight)[own], const float* b,
                             int lane) {
#pragma unroll 4
    for (int row = 0; row < rows; ++row)
#pragma unroll
      for (int r = 0; r < own; ++r) {
        const float w = __shfl_sync(0xffffffffu, weight[r], row);
#pragma unroll
        for (int c = 0; c < columns; ++c) out[r][c] += w * b[row * pitch + lane + warp_size * c];
      }
  }
};

/// The extents of one sequence; its queries are the last of the positions that its keys have.
struct Span {
  std::int64_t q_begin, k_begin;
  int queries, keys;

  __device__ Span(const std::int64_t* q_offsets, const std::int64_t* k_offsets, unsigned b)
      : q_begin(q_offsets[b]),
        k_begin(k_offsets[b]),
        queries(static_cast<int>(q_offsets[b + 1] - q_begin)),
        keys(static_cast<int>(k_offsets[b + 1] - k_begin)) {}
  __device__ int first_position() const { return keys - queries; }
};

/// What a query sees and how its scores are shaped; offsets lie on the device.
struct Mask {
  const std::int64_t *q_offsets, *k_offsets;
  const float* bias;  // (N, 2 reach + 1) by distance, or none
  int reach;
  int heads, key_heads, width;
  float scale, softcap;
  std::int64_t window;
  bool causal;

  __device__ int key_head(int head) const { return head / (heads / key_heads); }
  __device__ bool sees(int position, int key) const {
    if (causal && key > position) return false;
    return window < 0 || (key >= position - window && key <= position + window);
  }
  /// Keys [first, last) that some query at a position of [from, to] may see.
  __device__ int first_key(int from) const {
    return window < 0 ? 0 : static_cast<int>(max(std::int64_t{0}, from - window));
  }
  __device__ int last_key(int to, int keys) const {
    std::int64_t last = window < 0 ? keys : to + window + 1;
    if (causal) last = to + 1;
    return static_cast<int>(min(std::int64_t{keys}, last));
  }
  /// A score that is already scaled.
  __device__ float shaped(float score, int head, int position, int key) const {
    if (softcap != 0) score = softcap * portable::tanh(score / softcap);
    if (bias) {
      const int distance = max(-reach, min(reach, key - position));
      score += bias[head * (2 * reach + 1) + reach + distance];
    }
    return score;
  }
};

/// Gives a kernel more shared memory than the 48 KB that every kernel may have.
template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  STRATA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace strata::cuda::tiles
