// LayerNorm and RMSNorm: one row at a time, two passes over a row that stays in cache.

#include <cmath>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

namespace {

struct Moments {
  float mean, inverse_std;
};

template <class T>
Moments moments(const T* x, std::int64_t width, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) sum += to_float(x[c]);
  const float mean = sum / static_cast<float>(width);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t c = 0; c < width; ++c) {
    const float d = to_float(x[c]) - mean;
    squares += d * d;
  }
  return {mean, 1.0f / std::sqrt(squares / static_cast<float>(width) + eps)};
}

/// dx of one row, and the row's part of dw and db added to sum_w and sum_b.
template <class T>
void row_gradient(T* dx, const T* dy, const T* x, const T* w, const float* stats,
                  std::int64_t width, float* sum_w, float* sum_b) {
  const float mean = stats[0], inverse_std = stats[1];
  const auto weight = [w](std::int64_t c) { return w ? to_float(w[c]) : 1.0f; };
  float plain = 0, projected = 0;
#pragma omp simd reduction(+ : plain, projected)
  for (std::int64_t c = 0; c < width; ++c) {
    const float g = to_float(dy[c]) * weight(c);
    plain += g;
    projected += g * ((to_float(x[c]) - mean) * inverse_std);
  }
  plain /= static_cast<float>(width);
  projected /= static_cast<float>(width);
  fill_row(dx, 0, width, [=](std::int64_t c) {
    const float g = to_float(dy[c]), normal = (to_float(x[c]) - mean) * inverse_std;
    sum_w[c] += g * normal;
    sum_b[c] += g;
    return inverse_std * (g * weight(c) - plain - normal * projected);
  });
}

}  // namespace

void HostBackend::layer_norm(Exec& exec, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b,
                             float eps) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = x.shape[-1];
    const Rows<T> from{x.as<T>(), width}, to{y.as<T>(), width};
    const T* weight = optional<T>(w);
    const T* bias = optional<T>(b);
    float* stat = optional<float>(stats);
    for_rows(exec, rows_of(x), width, [=](std::int64_t row) {
      const Moments m = moments(from[row], width, eps);
      if (stat) {
        stat[2 * row] = m.mean;
        stat[2 * row + 1] = m.inverse_std;
      }
      const T* source = from[row];
      T* target = to[row];
      const auto normalised = [=](std::int64_t c) {
        return (to_float(source[c]) - m.mean) * m.inverse_std;
      };
      if (weight)
        fill_row(target, 0, width, [=](std::int64_t c) {
          return normalised(c) * to_float(weight[c]) + to_float(bias[c]);
        });
      else
        fill_row(target, 0, width, normalised);
    });
  });
}

void HostBackend::layer_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy,
                                      Tensor stats, Tensor x, Tensor w) {
  constexpr std::int64_t block_rows = 64;
  const std::int64_t rows = rows_of(x), width = x.shape[-1];
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  const ArenaScope scope(exec.arena);
  float* partial = exec.empty(DType::f32, {blocks, 2, width}).as<float>();
  const float* stat = stats.as<float>();
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<T> value{x.as<T>(), width}, gradient{dy.as<T>(), width}, to{dx.as<T>(), width};
    const T* weight = optional<T>(w);
    for_rows(exec, blocks, block_rows * width, [=](std::int64_t block) {
      float* sum_w = partial + block * 2 * width;
      std::fill_n(sum_w, 2 * width, 0.0f);
      const std::int64_t end = std::min(rows, (block + 1) * block_rows);
      for (std::int64_t row = block * block_rows; row < end; ++row)
        row_gradient(to[row], gradient[row], value[row], weight, stat + 2 * row, width, sum_w,
                     sum_w + width);
    });
  });
  if (dw) add_partials(exec, dw.as<float>(), partial, blocks, width, 2 * width);
  if (db) add_partials(exec, db.as<float>(), partial + width, blocks, width, 2 * width);
}

void HostBackend::rms_norm(Exec& exec, Tensor y, Tensor x, Tensor w, float eps,
                           ops::RmsScale scale) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = x.shape[-1];
    const Rows<T> from{x.as<T>(), width}, to{y.as<T>(), width};
    const T* weight = w.as<T>();
    for_rows(exec, rows_of(x), width, [=](std::int64_t row) {
      const T* source = from[row];
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t c = 0; c < width; ++c) {
        const float value = to_float(source[c]);
        squares += value * value;
      }
      const float factor = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
      T* target = to[row];
      if (scale == ops::RmsScale::one_plus_weight)
        fill_row(target, 0, width, [=](std::int64_t c) {
          return to_float(source[c]) * factor * (1.0f + to_float(weight[c]));
        });
      else {
        fill_row(target, 0, width, [=](std::int64_t c) { return to_float(source[c]) * factor; });
        fill_row(target, 0, width,
                 [=](std::int64_t c) { return to_float(target[c]) * to_float(weight[c]); });
      }
    });
  });
}

void HostBackend::accumulate_layer(Exec& exec, Tensor sum, Tensor x, bool normalised) {
  constexpr float eps = 1e-5f;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = x.shape[-1];
    const Rows<T> from{x.as<T>(), width};
    const Rows<float> to{sum.as<float>(), width};
    for_rows(exec, rows_of(x), width, [=](std::int64_t row) {
      const Moments m = normalised ? moments(from[row], width, eps) : Moments{0.0f, 1.0f};
      const T* source = from[row];
      float* target = to[row];
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c)
        target[c] += (to_float(source[c]) - m.mean) * m.inverse_std;
    });
  });
}

}  // namespace strata::host
