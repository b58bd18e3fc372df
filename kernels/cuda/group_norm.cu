// GroupNorm over NHWC, any number of channels a group. Three passes over memory forward (moments;
// normalise and store) and five backward. Sums run per channel, about the sample's first pixel, so
// that a mean far from zero costs no digits; groups are joined in double.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/portable/math.hpp"

namespace strata::cuda {

namespace {

using Cut = GroupNormCut;

Cut cut_of(const Tensor& x, int n) {
  return {x.shape[0], x.numel() / (x.shape[0] * x.shape[-1]), x.shape[-1], n};
}
dim3 grid_of(const Cut& cut) {
  return {blocks(cut.chunks), grid_side(cut.batch)};
}
dim3 block_of(const Cut& cut) {
  return {static_cast<unsigned>(cut.across), static_cast<unsigned>(cut.layers)};
}

/// What every kernel knows of the tensor.
struct Extent {
  std::int64_t pixels, chunks;
  int channels, groups, columns, chunk_pixels;
  Extent(const Cut& cut, int groups_)
      : pixels(cut.pixels),
        chunks(cut.chunks),
        channels(cut.channels),
        groups(groups_),
        columns(cut.columns),
        chunk_pixels(cut.chunk_pixels) {}

  __device__ std::int64_t sample() const { return blockIdx.y; }
  __device__ std::int64_t first_pixel() const { return std::int64_t{blockIdx.x} * chunk_pixels; }
  __device__ std::int64_t end_pixel() const { return min(first_pixel() + chunk_pixels, pixels); }
  __device__ std::int64_t at(std::int64_t pixel, int channel) const {
    return (sample() * pixels + pixel) * channels + channel;
  }
  __device__ int group_of(int channel) const { return channel / (channels / groups); }
};

/// Adds a block's two kinds of sums over its layers and stores them in partial (B, chunks, 2, C).
template <int n>
__device__ void store_sums(float* partial, const Extent& extent, int channel, bool inside,
                           const float (&first)[n], const float (&second)[n]) {
  extern __shared__ float shared[];
  const auto at = [&](int layer, int i) -> float& {
    return shared[(layer * 2 * n + i) * blockDim.x + threadIdx.x];
  };
  __syncthreads();  // sums of the columns before have been read
#pragma unroll
  for (int i = 0; i < n; ++i) {
    at(threadIdx.y, i) = first[i];
    at(threadIdx.y, n + i) = second[i];
  }
  __syncthreads();
  if (threadIdx.y > 0 || !inside) return;
  float* to = partial + (extent.sample() * extent.chunks + blockIdx.x) * 2 * extent.channels;
#pragma unroll
  for (int kind = 0; kind < 2; ++kind)
#pragma unroll
    for (int i = 0; i < n; ++i) {
      float sum = 0;
      for (int layer = 0; layer < blockDim.y; ++layer) sum += at(layer, kind * n + i);
      to[kind * extent.channels + channel + i] = sum;
    }
}

/// f(channel, inside) for each group of n channels that the thread works on; every thread of a
/// block comes as often.
template <int n, class F>
__device__ void each_column(const Extent& extent, F f) {
  for (int begin = 0; begin < extent.columns; begin += blockDim.x) {
    const int column = begin + threadIdx.x;
    f(column * n, column < extent.columns);
  }
}

/// partial (B, chunks, 2, C): sums of x - x0 and (x - x0)^2, x0 the sample's first pixel.
template <int n, class T>
__global__ void __launch_bounds__(Cut::most_threads)
    moments_kernel(float* partial, const T* x, Extent extent) {
  each_column<n>(extent, [&](int channel, bool inside) {
    float sum[n] = {}, squares[n] = {};
    if (inside) {
      const auto origin = Vec<T, n>::load(x + extent.at(0, channel));
#pragma unroll 4
      for (std::int64_t pixel = extent.first_pixel() + threadIdx.y; pixel < extent.end_pixel();
           pixel += blockDim.y) {
        const auto values = Vec<T, n>::load(x + extent.at(pixel, channel));
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const float d = to_float(values.v[i]) - to_float(origin.v[i]);
          sum[i] += d;
          squares[i] += d * d;
        }
      }
    }
    store_sums<n>(partial, extent, channel, inside, sum, squares);
  });
}

constexpr int join_threads = 256;

/// The sums over the chunks of one kind of one channel.
__device__ double over_chunks(const float* partial, const Extent& extent, std::int64_t sample,
                              int kind, int channel) {
  const float* from = partial + (sample * extent.chunks * 2 + kind) * extent.channels + channel;
  double sum = 0;
  for (std::int64_t chunk = 0; chunk < extent.chunks; ++chunk)
    sum += from[chunk * 2 * extent.channels];
  return sum;
}

/// Adds partial (B, chunks, 2, C) up over the chunks: total (B, 2, C), in their order.
__global__ void __launch_bounds__(join_threads)
    join_chunks_kernel(float* total, const float* partial, Extent extent, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * join_threads + threadIdx.x;
  if (i >= count) return;
  const std::int64_t sample = i / (2 * extent.channels);
  const int rest = static_cast<int>(i % (2 * extent.channels));
  total[i] = static_cast<float>(
      over_chunks(partial, extent, sample, rest / extent.channels, rest % extent.channels));
}

/// stats (B,G,2) from total (B,2,C): one warp a group.
template <class T>
__global__ void __launch_bounds__(join_threads)
    stats_kernel(float* stats, const float* total, const T* x, Extent extent, std::int64_t count,
                 float eps) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * join_threads + threadIdx.x) / warp_size;
  if (at >= count) return;
  const int lane = threadIdx.x % warp_size, per_group = extent.channels / extent.groups;
  const std::int64_t sample = at / extent.groups;
  const int first = static_cast<int>(at % extent.groups) * per_group;
  const float* sums = total + sample * 2 * extent.channels;
  const T* origin = x + sample * extent.pixels * extent.channels;
  const auto pixels = static_cast<double>(extent.pixels);
  const auto mean_of = [&](int c) { return to_float(origin[c]) + sums[c] / pixels; };
  double mean = 0;
  for (int c = first + lane; c < first + per_group; c += warp_size) mean += mean_of(c);
  mean = warp_sum(mean) / per_group;
  double squares = 0;
  for (int c = first + lane; c < first + per_group; c += warp_size) {
    const double shift = mean_of(c) - mean, sum = sums[c];
    squares += sums[extent.channels + c] - sum * sum / pixels + pixels * shift * shift;
  }
  squares = fmax(warp_sum(squares), 0.0);
  if (lane > 0) return;
  stats[2 * at] = static_cast<float>(mean);
  stats[2 * at + 1] = static_cast<float>(1.0 / sqrt(squares / (pixels * per_group) + eps));
}

/// What normalises n channels of a sample: z = (x - mean) * scale + bias.
template <int n>
struct Affine {
  float mean[n], scale[n], bias[n];

  template <class T>
  __device__ Affine(const Extent& extent, const float* stats, const T* w, const T* b, int channel) {
    const auto weight = Vec<T, n>::load(w + channel), shift = Vec<T, n>::load(b + channel);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float* stat =
          stats + 2 * (extent.sample() * extent.groups + extent.group_of(channel + i));
      mean[i] = stat[0];
      scale[i] = stat[1] * to_float(weight.v[i]);
      bias[i] = to_float(shift.v[i]);
    }
  }
};

template <bool with_silu, int n, class T>
__global__ void __launch_bounds__(Cut::most_threads)
    normalise_kernel(T* y, const T* x, const float* stats, const T* w, const T* b, Extent extent) {
  each_column<n>(extent, [&](int channel, bool inside) {
    if (!inside) return;
    const Affine<n> affine(extent, stats, w, b, channel);
#pragma unroll 4
    for (std::int64_t pixel = extent.first_pixel() + threadIdx.y; pixel < extent.end_pixel();
         pixel += blockDim.y) {
      const auto from = Vec<T, n>::load(x + extent.at(pixel, channel));
      Vec<T, n> to;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const float z = (to_float(from.v[i]) - affine.mean[i]) * affine.scale[i] + affine.bias[i];
        to.v[i] = from_float<T>(with_silu ? portable::silu(z) : z);
      }
      to.store(y + extent.at(pixel, channel));
    }
  });
}

/// What flows back into the affine part's output.
template <bool with_silu>
__device__ float gradient_before(float dy, float z) {
  return with_silu ? dy * portable::silu_slope(z) : dy;
}

/// partial (B, chunks, 2, C): sums of dz and of dz (x - mean).
template <bool with_silu, int n, class T>
__global__ void __launch_bounds__(Cut::most_threads)
    gradient_sums_kernel(float* partial, const T* dy, const T* x, const float* stats, const T* w,
                         const T* b, Extent extent) {
  each_column<n>(extent, [&](int channel, bool inside) {
    float sum[n] = {}, projected[n] = {};
    if (inside) {
      const Affine<n> affine(extent, stats, w, b, channel);
#pragma unroll 2
      for (std::int64_t pixel = extent.first_pixel() + threadIdx.y; pixel < extent.end_pixel();
           pixel += blockDim.y) {
        const auto from = Vec<T, n>::load(x + extent.at(pixel, channel));
        const auto gradient = Vec<T, n>::load(dy + extent.at(pixel, channel));
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const float centred = to_float(from.v[i]) - affine.mean[i];
          const float dz = gradient_before<with_silu>(to_float(gradient.v[i]),
                                                      centred * affine.scale[i] + affine.bias[i]);
          sum[i] += dz;
          projected[i] += dz * centred;
        }
      }
    }
    store_sums<n>(partial, extent, channel, inside, sum, projected);
  });
}

/// plan (B,G,2): dx = dz w / std + (x - mean) plan[0] + plan[1]; total (B,2,C) as above, whose
/// second half becomes the sums of dz xhat. One warp a group.
template <class T>
__global__ void __launch_bounds__(join_threads)
    plan_kernel(float* plan, float* total, const float* stats, const T* w, Extent extent,
                std::int64_t count) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * join_threads + threadIdx.x) / warp_size;
  if (at >= count) return;
  const int lane = threadIdx.x % warp_size, per_group = extent.channels / extent.groups;
  const int first = static_cast<int>(at % extent.groups) * per_group;
  float* sums = total + at / extent.groups * 2 * extent.channels;
  const float inverse_std = stats[2 * at + 1];
  double plain = 0, projected = 0;  // sums over the group of w dz and of w dz xhat
  for (int c = first + lane; c < first + per_group; c += warp_size) {
    const double weight = to_float(w[c]);
    const double normalised = static_cast<double>(sums[extent.channels + c]) * inverse_std;
    plain += weight * sums[c];
    projected += weight * normalised;
    sums[extent.channels + c] = static_cast<float>(normalised);
  }
  plain = warp_sum(plain);
  projected = warp_sum(projected);
  if (lane > 0) return;
  const double n = static_cast<double>(extent.pixels) * per_group;
  plan[2 * at] = static_cast<float>(-projected / n * inverse_std * inverse_std);
  plan[2 * at + 1] = static_cast<float>(-plain / n * inverse_std);
}

/// dw, db (C) += the sums over the samples of total (B,2,C) = [dz | dz xhat].
__global__ void __launch_bounds__(join_threads)
    parameter_gradients_kernel(float* dw, float* db, const float* total, std::int64_t batch,
                               int channels) {
  const int c = blockIdx.x * join_threads + threadIdx.x;
  if (c >= channels) return;
  float of_w = 0, of_b = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    of_b += total[b * 2 * channels + c];
    of_w += total[(b * 2 + 1) * channels + c];
  }
  if (dw) dw[c] += of_w;
  if (db) db[c] += of_b;
}

template <bool with_silu, int n, class T>
__global__ void __launch_bounds__(Cut::most_threads)
    gradient_kernel(T* dx, const T* dy, const T* x, const float* stats, const float* plan,
                    const T* w, const T* b, Extent extent) {
  each_column<n>(extent, [&](int channel, bool inside) {
    if (!inside) return;
    const Affine<n> affine(extent, stats, w, b, channel);
    float slope[n], offset[n];
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float* of = plan + 2 * (extent.sample() * extent.groups + extent.group_of(channel + i));
      slope[i] = of[0];
      offset[i] = of[1];
    }
#pragma unroll 2
    for (std::int64_t pixel = extent.first_pixel() + threadIdx.y; pixel < extent.end_pixel();
         pixel += blockDim.y) {
      const auto from = Vec<T, n>::load(x + extent.at(pixel, channel));
      const auto gradient = Vec<T, n>::load(dy + extent.at(pixel, channel));
      Vec<T, n> to;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const float centred = to_float(from.v[i]) - affine.mean[i];
        const float dz = gradient_before<with_silu>(to_float(gradient.v[i]),
                                                    centred * affine.scale[i] + affine.bias[i]);
        to.v[i] = from_float<T>(dz * affine.scale[i] + (centred * slope[i] + offset[i]));
      }
      to.store(dx + extent.at(pixel, channel));
    }
  });
}

/// total (B,2,C) in the arena = partial (B, chunks, 2, C) summed over the chunks.
Tensor join_chunks(Exec& exec, cudaStream_t stream, const Tensor& partial, const Cut& cut,
                   const Extent& extent) {
  if (cut.chunks == 1) return partial;
  const Tensor total = exec.empty(DType::f32, {cut.batch, 2, cut.channels});
  join_chunks_kernel<<<blocks(ceil_div(total.numel(), join_threads)), join_threads, 0, stream>>>(
      total.as<float>(), partial.as<float>(), extent, total.numel());
  STRATA_LAUNCHED("group_norm: join_chunks");
  return total;
}

/// Blocks of join_threads threads with a warp for each group.
unsigned warp_blocks(std::int64_t groups) {
  return blocks(ceil_div(groups * warp_size, join_threads));
}

}  // namespace

void CudaBackend::group_norm(Exec& exec, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b,
                             int groups, float eps, ops::Activation activation) {
  if (x.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  const std::int64_t count = x.shape[0] * groups;
  if (!stats) stats = exec.empty(DType::f32, {count, 2});
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(x.shape[-1], y, x, w, b), [&](auto n) {
      const Cut cut = cut_of(x, n);
      const Extent extent(cut, groups);
      const Tensor partial = exec.empty(DType::f32, {cut.batch, cut.chunks, 2, cut.channels});
      moments_kernel<n><<<grid_of(cut), block_of(cut), cut.shared_bytes(n), stream()>>>(
          partial.as<float>(), x.as<T>(), extent);
      STRATA_LAUNCHED("group_norm: moments");
      const Tensor total = join_chunks(exec, stream(), partial, cut, extent);
      stats_kernel<<<warp_blocks(count), join_threads, 0, stream()>>>(
          stats.as<float>(), total.as<float>(), x.as<T>(), extent, count, eps);
      STRATA_LAUNCHED("group_norm: stats");
      with_activation(activation, [&](auto silu) {
        normalise_kernel<silu, n><<<grid_of(cut), block_of(cut), 0, stream()>>>(
            y.as<T>(), x.as<T>(), stats.as<float>(), w.as<T>(), b.as<T>(), extent);
        STRATA_LAUNCHED("group_norm: normalise");
      });
    });
  });
}

void CudaBackend::group_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy,
                                      Tensor stats, Tensor x, Tensor w, Tensor b, int groups,
                                      ops::Activation activation) {
  if (x.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  const std::int64_t count = x.shape[0] * groups;
  const Tensor plan = exec.empty(DType::f32, {count, 2});
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(x.shape[-1], dx, dy, x, w, b), [&](auto n) {
      const Cut cut = cut_of(x, n);
      const Extent extent(cut, groups);
      const Tensor partial = exec.empty(DType::f32, {cut.batch, cut.chunks, 2, cut.channels});
      with_activation(activation, [&](auto silu) {
        gradient_sums_kernel<silu, n>
            <<<grid_of(cut), block_of(cut), cut.shared_bytes(n), stream()>>>(
                partial.as<float>(), dy.as<T>(), x.as<T>(), stats.as<float>(), w.as<T>(), b.as<T>(),
                extent);
        STRATA_LAUNCHED("group_norm_backward: sums");
      });
      const Tensor total = join_chunks(exec, stream(), partial, cut, extent);
      plan_kernel<<<warp_blocks(count), join_threads, 0, stream()>>>(
          plan.as<float>(), total.as<float>(), stats.as<float>(), w.as<T>(), extent, count);
      STRATA_LAUNCHED("group_norm_backward: plan");
      if (dw || db) {
        parameter_gradients_kernel<<<blocks(ceil_div(cut.channels, join_threads)), join_threads, 0,
                                     stream()>>>(optional<float>(dw), optional<float>(db),
                                                 total.as<float>(), cut.batch, cut.channels);
        STRATA_LAUNCHED("group_norm_backward: parameters");
      }
      with_activation(activation, [&](auto silu) {
        gradient_kernel<silu, n><<<grid_of(cut), block_of(cut), 0, stream()>>>(
            dx.as<T>(), dy.as<T>(), x.as<T>(), stats.as<float>(), plan.as<float>(), w.as<T>(),
            b.as<T>(), extent);
        STRATA_LAUNCHED("group_norm_backward: dx");
      });
    });
  });
}

}  // namespace strata::cuda
