// GroupNorm over NHWC. A sample's pixels are cut into blocks that fit a core's cache: statistics of
// a block are exact two-pass sums about its own mean, blocks are joined as Chan, Golub and LeVeque
// (1983) join them.

#include <cmath>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/portable/math.hpp"

namespace strata::host {

namespace {

/// The same cut of (B, pixels, C) for every pass.
struct Blocks {
  std::int64_t batch, pixels, channels, groups, per_group, block_pixels, per_sample;

  Blocks(const Tensor& x, int groups_)
      : batch(x.shape[0]),
        pixels(batch == 0 ? 0 : x.numel() / (batch * x.shape[-1])),
        channels(x.shape[-1]),
        groups(groups_),
        per_group(channels / groups),
        block_pixels(std::clamp<std::int64_t>(
            131072 / (channels * static_cast<std::int64_t>(size_of(x.dtype))), 8, 256)),
        per_sample((pixels + block_pixels - 1) / block_pixels) {}

  std::int64_t count() const { return batch * per_sample; }
  std::int64_t sample(std::int64_t block) const { return block / per_sample; }
  std::int64_t size(std::int64_t block) const {
    return std::min(block_pixels, pixels - block % per_sample * block_pixels);
  }
  /// Offset of the block's first element.
  std::int64_t begin(std::int64_t block) const {
    return (sample(block) * pixels + block % per_sample * block_pixels) * channels;
  }
  template <class F>
  void each(Exec& exec, F f) const {
    for_rows(exec, count(), block_pixels * channels, f);
  }
};

/// The sum over a group's channels.
float group_sum(const float* channels, std::int64_t count) {
  float sum = 0;
  for (std::int64_t c = 0; c < count; ++c) sum += channels[c];
  return sum;
}

/// moments (blocks, G, 2): mean and sum of squared deviations of each block's groups.
/// scratch (blocks, 3, C).
template <class T>
void block_moments(Exec& exec, const Blocks& blocks, const T* x, float* moments, float* scratch) {
  blocks.each(exec, [=](std::int64_t block) {
    const std::int64_t channels = blocks.channels, size = blocks.size(block);
    const std::int64_t per_group = blocks.per_group;
    const auto count = static_cast<float>(size * per_group);
    const T* pixels = x + blocks.begin(block);
    float* sum = scratch + block * 3 * channels;
    float* squares = sum + channels;
    float* mean = squares + channels;
    std::fill_n(sum, 2 * channels, 0.0f);
    for (std::int64_t p = 0; p < size; ++p)
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) sum[c] += to_float(pixels[p * channels + c]);
    for (std::int64_t g = 0; g < blocks.groups; ++g)
      std::fill_n(mean + g * per_group, per_group,
                  group_sum(sum + g * per_group, per_group) / count);
    std::fill_n(sum, channels, 0.0f);
    for (std::int64_t p = 0; p < size; ++p)
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) {
        const float d = to_float(pixels[p * channels + c]) - mean[c];
        sum[c] += d;
        squares[c] += d * d;
      }
    for (std::int64_t g = 0; g < blocks.groups; ++g) {
      float* moment = moments + (block * blocks.groups + g) * 2;
      const float rest = group_sum(sum + g * per_group, per_group);  // the first mean's rounding
      moment[0] = mean[g * per_group] + rest / count;
      moment[1] = group_sum(squares + g * per_group, per_group) - rest * (rest / count);
    }
  });
}

/// stats (B,G,2): mean and 1/std of each group.
void join_moments(const Blocks& blocks, const float* moments, float* stats, float eps) {
  for (std::int64_t b = 0; b < blocks.batch; ++b)
    for (std::int64_t g = 0; g < blocks.groups; ++g) {
      double n = 0, mean = 0, squares = 0;
      for (std::int64_t i = 0; i < blocks.per_sample; ++i) {
        const std::int64_t block = b * blocks.per_sample + i;
        const float* moment = moments + (block * blocks.groups + g) * 2;
        const double m = static_cast<double>(blocks.size(block) * blocks.per_group);
        const double delta = moment[0] - mean;
        squares += moment[1] + delta * delta * n * m / (n + m);
        mean += delta * m / (n + m);
        n += m;
      }
      float* to = stats + (b * blocks.groups + g) * 2;
      to[0] = static_cast<float>(mean);
      to[1] = static_cast<float>(1.0 / std::sqrt(squares / n + eps));
    }
}

/// What normalises a sample's channels: z = (x - mean) * scale + bias. Rows of (B,3,C).
struct Affine {
  const float *mean, *scale, *bias;
  Affine(const float* rows, const Blocks& blocks, std::int64_t block)
      : mean(rows + blocks.sample(block) * 3 * blocks.channels),
        scale(mean + blocks.channels),
        bias(scale + blocks.channels) {}
};

template <class T>
void make_affine(const Blocks& blocks, const float* stats, const T* w, const T* bias,
                 float* affine) {
  const std::int64_t channels = blocks.channels;
  for (std::int64_t b = 0; b < blocks.batch; ++b) {
    float* rows = affine + b * 3 * channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      const float* stat = stats + (b * blocks.groups + c / blocks.per_group) * 2;
      rows[c] = stat[0];
      rows[channels + c] = stat[1] * to_float(w[c]);
      rows[2 * channels + c] = to_float(bias[c]);
    }
  }
}

template <bool with_silu, class T>
void apply(Exec& exec, const Blocks& blocks, T* y, const T* x, const float* affine) {
  blocks.each(exec, [=](std::int64_t block) {
    const std::int64_t channels = blocks.channels, begin = blocks.begin(block);
    const Affine at(affine, blocks, block);
    for (std::int64_t p = 0; p < blocks.size(block); ++p) {
      const T* from = x + begin + p * channels;
      T* to = y + begin + p * channels;
      fill_row(to, 0, channels, [=](std::int64_t c) {
        const float z = (to_float(from[c]) - at.mean[c]) * at.scale[c] + at.bias[c];
        return with_silu ? portable::silu(z) : z;
      });
    }
  });
}

/// What flows back into the affine part's output.
template <bool with_silu>
float gradient_before(float dy, float z) {
  return with_silu ? dy * portable::silu_slope(z) : dy;
}

/// partial (blocks,2,C): sums over the block's pixels of dz and of dz (x - mean).
template <bool with_silu, class T>
void gradient_sums(Exec& exec, const Blocks& blocks, const T* dy, const T* x, const float* affine,
                   float* partial) {
  blocks.each(exec, [=](std::int64_t block) {
    const std::int64_t channels = blocks.channels, begin = blocks.begin(block);
    const Affine at(affine, blocks, block);
    float* sum = partial + block * 2 * channels;
    float* sum_x = sum + channels;
    std::fill_n(sum, 2 * channels, 0.0f);
    for (std::int64_t p = 0; p < blocks.size(block); ++p) {
      const T* from = x + begin + p * channels;
      const T* gradient = dy + begin + p * channels;
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) {
        const float centred = to_float(from[c]) - at.mean[c];
        const float dz =
            gradient_before<with_silu>(to_float(gradient[c]), centred * at.scale[c] + at.bias[c]);
        sum[c] += dz;
        sum_x[c] += dz * centred;
      }
    }
  });
}

/// dx = dz * plan[0] + (x - mean) * plan[1] + plan[2], plan (B,3,C); dw and db accumulated.
template <class T>
void make_plan(const Blocks& blocks, const float* partial, const float* stats, const T* w,
               float* dw, float* db, float* sums, float* plan) {
  const std::int64_t channels = blocks.channels;
  const double n = static_cast<double>(blocks.pixels * blocks.per_group);
  for (std::int64_t b = 0; b < blocks.batch; ++b) {
    std::fill_n(sums, 2 * channels, 0.0f);
    for (std::int64_t i = 0; i < blocks.per_sample; ++i) {
      const float* from = partial + (b * blocks.per_sample + i) * 2 * channels;
      for (std::int64_t c = 0; c < 2 * channels; ++c) sums[c] += from[c];
    }
    for (std::int64_t g = 0; g < blocks.groups; ++g) {
      const float inverse_std = stats[(b * blocks.groups + g) * 2 + 1];
      double plain = 0, projected = 0;  // sums over the group of w dz and of w dz xhat
      const std::int64_t first = g * blocks.per_group;
      for (std::int64_t c = first; c < first + blocks.per_group; ++c) {
        const double normalised = static_cast<double>(sums[channels + c]) * inverse_std;
        plain += to_float(w[c]) * static_cast<double>(sums[c]);
        projected += to_float(w[c]) * normalised;
        if (dw) dw[c] += static_cast<float>(normalised);
        if (db) db[c] += sums[c];
      }
      const double slope = -projected / n * inverse_std * inverse_std;
      const double offset = -plain / n * inverse_std;
      float* to = plan + b * 3 * channels;
      for (std::int64_t c = first; c < first + blocks.per_group; ++c) {
        to[c] = inverse_std * to_float(w[c]);
        to[channels + c] = static_cast<float>(slope);
        to[2 * channels + c] = static_cast<float>(offset);
      }
    }
  }
}

template <bool with_silu, class T>
void apply_gradient(Exec& exec, const Blocks& blocks, T* dx, const T* dy, const T* x,
                    const float* affine, const float* plan) {
  blocks.each(exec, [=](std::int64_t block) {
    const std::int64_t channels = blocks.channels, begin = blocks.begin(block);
    const Affine at(affine, blocks, block);
    const float* direct = plan + blocks.sample(block) * 3 * channels;
    const float* slope = direct + channels;
    const float* offset = slope + channels;
    for (std::int64_t p = 0; p < blocks.size(block); ++p) {
      const T* from = x + begin + p * channels;
      const T* gradient = dy + begin + p * channels;
      T* to = dx + begin + p * channels;
      fill_row(to, 0, channels, [=](std::int64_t c) {
        const float centred = to_float(from[c]) - at.mean[c];
        const float dz =
            gradient_before<with_silu>(to_float(gradient[c]), centred * at.scale[c] + at.bias[c]);
        return dz * direct[c] + (centred * slope[c] + offset[c]);
      });
    }
  });
}

}  // namespace

void HostBackend::group_norm(Exec& exec, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b,
                             int groups, float eps, ops::Activation activation) {
  if (x.numel() == 0) return;
  const Blocks blocks(x, groups);
  const ArenaScope scope(exec.arena);
  float* moments = exec.empty(DType::f32, {blocks.count(), groups, 2}).as<float>();
  float* scratch = exec.empty(DType::f32, {blocks.count(), 3, blocks.channels}).as<float>();
  float* affine = exec.empty(DType::f32, {blocks.batch, 3, blocks.channels}).as<float>();
  if (!stats) stats = exec.empty(DType::f32, {blocks.batch, groups, 2});
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    block_moments(exec, blocks, x.as<T>(), moments, scratch);
    join_moments(blocks, moments, stats.as<float>(), eps);
    make_affine(blocks, stats.as<float>(), w.as<T>(), b.as<T>(), affine);
    with_activation(activation,
                    [&](auto silu) { apply<silu>(exec, blocks, y.as<T>(), x.as<T>(), affine); });
  });
}

void HostBackend::group_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy,
                                      Tensor stats, Tensor x, Tensor w, Tensor b, int groups,
                                      ops::Activation activation) {
  if (x.numel() == 0) return;
  const Blocks blocks(x, groups);
  const ArenaScope scope(exec.arena);
  const std::int64_t channels = blocks.channels;
  float* affine = exec.empty(DType::f32, {blocks.batch, 3, channels}).as<float>();
  float* partial = exec.empty(DType::f32, {blocks.count(), 2, channels}).as<float>();
  float* plan = exec.empty(DType::f32, {blocks.batch, 3, channels}).as<float>();
  float* sums = exec.empty(DType::f32, {2, channels}).as<float>();
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    make_affine(blocks, stats.as<float>(), w.as<T>(), b.as<T>(), affine);
    with_activation(activation, [&](auto silu) {
      gradient_sums<silu>(exec, blocks, dy.as<T>(), x.as<T>(), affine, partial);
      make_plan(blocks, partial, stats.as<float>(), w.as<T>(), dw ? dw.as<float>() : nullptr,
                db ? db.as<float>() : nullptr, sums, plan);
      apply_gradient<silu>(exec, blocks, dx.as<T>(), dy.as<T>(), x.as<T>(), affine, plan);
    });
  });
}

}  // namespace strata::host
