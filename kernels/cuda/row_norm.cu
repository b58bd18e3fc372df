// LayerNorm and RMSNorm. A row is read once: it stays in the registers of the warp (up to 1280
// bf16) or block (up to 8192) that works on it; wider rows, or rows at odd addresses, are read
// again from cache.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/reduce.cuh"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// How a row is spread: `group` threads, n elements at a time, `kept` times (0: read again).
template <int group_, int n_, int kept_>
struct Spread {
  static constexpr int group = group_, n = n_, kept = kept_;
  static constexpr int rows_a_block = threads / group;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % group; }
  static __device__ std::int64_t row() {
    return std::int64_t{blockIdx.x} * rows_a_block + threadIdx.x / group;
  }
  template <class T>
  static __device__ T sum(T value) {
    return block_sum<group>(value);
  }
};

/// A thread's part of one row.
template <class T, class S>
struct Part {
  const T* row;
  int width;
  Vec<T, S::n> values[S::kept == 0 ? 1 : S::kept];

  __device__ Part(const T* row_, int width_) : row(row_), width(width_) {
#pragma unroll
    for (int k = 0; k < S::kept; ++k) {
      const int at = (k * S::group + S::lane()) * S::n;
      if (at < width) values[k] = Vec<T, S::n>::load(row + at);
    }
  }
  /// f(k, at, values) for each run of n elements at `at`; k counts them where they are kept.
  template <class F>
  __device__ void each(F f) const {
    if constexpr (S::kept > 0) {
#pragma unroll
      for (int k = 0; k < S::kept; ++k) {
        const int at = (k * S::group + S::lane()) * S::n;
        if (at < width) f(k, at, values[k]);
      }
    } else {
      for (int at = S::lane() * S::n; at < width; at += S::group * S::n)
        f(0, at, Vec<T, S::n>::load(row + at));
    }
  }
  template <class F>
  __device__ float sum_of(F f) const {
    float sum = 0;
    each([&](int, int, const auto& from) {
#pragma unroll
      for (int i = 0; i < S::n; ++i) sum += f(to_float(from.v[i]));
    });
    return S::sum(sum);
  }
};

/// Calls f(Spread) for rows of `width` elements of T.
template <class T, class F>
void with_spread(std::int64_t width, bool wide_access, F f) {
  constexpr int n = wide<T>;
  if (!wide_access) return f(Spread<threads, 1, 0>{});
  const std::int64_t a_warp = ceil_div(width, n * warp_size),
                     a_block = ceil_div(width, n * threads);
  if (a_warp <= 1) return f(Spread<warp_size, n, 1>{});
  if (a_warp <= 2) return f(Spread<warp_size, n, 2>{});
  if (a_warp <= 5) return f(Spread<warp_size, n, 5>{});
  if (a_block <= 2) return f(Spread<threads, n, 2>{});
  if (a_block <= 4) return f(Spread<threads, n, 4>{});
  return f(Spread<threads, n, 0>{});
}

struct Moments {
  float mean, inverse_std;
};

template <class T, class S>
__device__ Moments moments(const Part<T, S>& part, float eps) {
  const auto width = static_cast<float>(part.width);
  const float mean = part.sum_of([](float x) { return x; }) / width;
  const float squares = part.sum_of([mean](float x) { return (x - mean) * (x - mean); });
  return {mean, 1.0f / sqrtf(squares / width + eps)};
}

/// A warp beyond the last row works on the last one again and stores nothing.
template <class S, class T, class Weight>
__global__ void __launch_bounds__(threads)
    layer_norm_kernel(T* y, float* stats, const T* x, const Weight* w, const Weight* b,
                      std::int64_t rows, int width, float eps) {
  const std::int64_t row = min(S::row(), rows - 1);
  const bool stores = row == S::row();
  const Part<T, S> part(x + row * width, width);
  const Moments m = moments(part, eps);
  if (!stores) return;
  if (stats && S::lane() == 0) {
    stats[2 * row] = m.mean;
    stats[2 * row + 1] = m.inverse_std;
  }
  part.each([&](int, int at, const auto& from) {
    Vec<T, S::n> to;
    if (w) {
      const auto weight = Vec<Weight, S::n>::load(w + at), bias = Vec<Weight, S::n>::load(b + at);
#pragma unroll
      for (int i = 0; i < S::n; ++i)
        to.v[i] =
            from_float<T>((to_float(from.v[i]) - m.mean) * m.inverse_std * to_float(weight.v[i]) +
                          to_float(bias.v[i]));
    } else {
#pragma unroll
      for (int i = 0; i < S::n; ++i)
        to.v[i] = from_float<T>((to_float(from.v[i]) - m.mean) * m.inverse_std);
    }
    to.store(y + row * width + at);
  });
}

template <class S, class T>
__global__ void __launch_bounds__(threads)
    rms_norm_kernel(T* y, const T* x, const T* w, std::int64_t rows, int width, float eps,
                    ops::RmsScale scale) {
  const std::int64_t row = min(S::row(), rows - 1);
  const Part<T, S> part(x + row * width, width);
  const float squares = part.sum_of([](float v) { return v * v; });
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
  if (row != S::row()) return;
  part.each([&](int, int at, const auto& from) {
    const auto weight = Vec<T, S::n>::load(w + at);
    Vec<T, S::n> to;
#pragma unroll
    for (int i = 0; i < S::n; ++i) {
      const float normal = to_float(from.v[i]) * factor, by = to_float(weight.v[i]);
      to.v[i] = from_float<T>(scale == ops::RmsScale::one_plus_weight
                                  ? normal * (1.0f + by)
                                  : to_float(from_float<T>(normal)) * by);
    }
    to.store(y + row * width + at);
  });
}

template <class S, class T>
__global__ void __launch_bounds__(threads)
    accumulate_layer_kernel(float* sum, const T* x, std::int64_t rows, int width, bool normalised) {
  constexpr float eps = 1e-5f;
  const std::int64_t row = min(S::row(), rows - 1);
  const Part<T, S> part(x + row * width, width);
  const Moments m = normalised ? moments(part, eps) : Moments{0.0f, 1.0f};
  if (row != S::row()) return;
  part.each([&](int, int at, const auto& from) {
    float* target = sum + row * width + at;
    auto to = Vec<float, S::n>::load(target);
#pragma unroll
    for (int i = 0; i < S::n; ++i) to.v[i] += (to_float(from.v[i]) - m.mean) * m.inverse_std;
    to.store(target);
  });
}

/// n weights, or ones where there are none.
template <int n, class T>
__device__ Vec<float, n> weights_at(const T* w, int at) {
  Vec<float, n> to;
  if (!w) {
#pragma unroll
    for (int i = 0; i < n; ++i) to.v[i] = 1.0f;
    return to;
  }
  const auto from = Vec<T, n>::load(w + at);
#pragma unroll
  for (int i = 0; i < n; ++i) to.v[i] = to_float(from.v[i]);
  return to;
}

/// A thread's sums of dw and db over its group's rows: in registers where the row is kept,
/// otherwise in the group's own row of partial sums.
template <class S>
struct ColumnSums {
  static constexpr int kept = S::kept == 0 ? 1 : S::kept;
  float* to;  // (2, width), or none
  int width;
  float w[kept][S::n] = {}, b[kept][S::n] = {};

  __device__ ColumnSums(float* to_, int width_) : to(to_), width(width_) {
    if constexpr (S::kept == 0) {
      if (to)
        for (int at = S::lane(); at < 2 * width; at += S::group) to[at] = 0;
      __syncthreads();
    }
  }
  __device__ void add(int k, int at, int i, float dw, float db) {
    if constexpr (S::kept > 0) {
      w[k][i] += dw;
      b[k][i] += db;
    } else if (to) {
      to[at + i] += dw;
      to[width + at + i] += db;
    }
  }
  __device__ void store() const {
    if constexpr (S::kept > 0) {
#pragma unroll
      for (int k = 0; k < kept; ++k) {
        const int at = (k * S::group + S::lane()) * S::n;
        if (!to || at >= width) continue;
        Vec<float, S::n> of_w, of_b;
#pragma unroll
        for (int i = 0; i < S::n; ++i) {
          of_w.v[i] = w[k][i];
          of_b.v[i] = b[k][i];
        }
        of_w.store(to + at);
        of_b.store(to + width + at);
      }
    }
  }
};

/// dx, and partial (chunks, 2, width): each group's sums of dw and db over its rows.
template <class S, class T>
__global__ void __launch_bounds__(threads)
    layer_norm_backward_kernel(T* dx, float* partial, const T* dy, const T* x, const T* w,
                               const float* stats, std::int64_t rows, int width, int chunk_rows) {
  const std::int64_t chunk = S::row(), first = chunk * chunk_rows;
  if (first >= rows) return;  // a whole warp or block
  ColumnSums<S> sums(partial ? partial + chunk * 2 * width : nullptr, width);
  for (std::int64_t row = first; row < min(first + chunk_rows, rows); ++row) {
    const float mean = stats[2 * row], inverse_std = stats[2 * row + 1];
    const Part<T, S> value(x + row * width, width), gradient(dy + row * width, width);
    const auto value_at = [&](int k, int at) {
      return S::kept > 0 ? value.values[k] : Vec<T, S::n>::load(value.row + at);
    };
    float plain = 0, projected = 0;
    gradient.each([&](int k, int at, const auto& g) {
      const auto v = value_at(k, at);
      const auto weight = weights_at<S::n>(w, at);
#pragma unroll
      for (int i = 0; i < S::n; ++i) {
        const float weighted = to_float(g.v[i]) * weight.v[i];
        plain += weighted;
        projected += weighted * ((to_float(v.v[i]) - mean) * inverse_std);
      }
    });
    plain = S::sum(plain) / static_cast<float>(width);
    projected = S::sum(projected) / static_cast<float>(width);
    gradient.each([&](int k, int at, const auto& g) {
      const auto v = value_at(k, at);
      const auto weight = weights_at<S::n>(w, at);
      Vec<T, S::n> to;
#pragma unroll
      for (int i = 0; i < S::n; ++i) {
        const float normal = (to_float(v.v[i]) - mean) * inverse_std, db = to_float(g.v[i]);
        to.v[i] = from_float<T>(inverse_std * (db * weight.v[i] - plain - normal * projected));
        sums.add(k, at, i, db * normal, db);
      }
      to.store(dx + row * width + at);
    });
  }
  sums.store();
}

int checked_width(const Tensor& x) {
  STRATA_CHECK(x.shape[-1] <= 1 << 24, "rows of {} elements", x.shape[-1]);
  return static_cast<int>(x.shape[-1]);
}

}  // namespace

void CudaBackend::layer_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b,
                             float eps) {
  if (x.numel() == 0) return;
  const std::int64_t rows = rows_of(x);
  const int width = checked_width(x);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_spread<T>(width, is_wide(width, y, x, w, b), [&](auto spread) {
      using S = decltype(spread);
      layer_norm_kernel<S><<<blocks(ceil_div(rows, S::rows_a_block)), threads, 0, stream()>>>(
          y.as<T>(), optional<float>(stats), x.as<T>(), optional<T>(w), optional<T>(b), rows, width,
          eps);
      STRATA_LAUNCHED("layer_norm");
    });
  });
}

void CudaBackend::layer_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy,
                                      Tensor stats, Tensor x, Tensor w) {
  if (x.numel() == 0) return;
  const std::int64_t rows = rows_of(x), chunks = ceil_div(rows, layer_norm_chunk(rows));
  const int width = checked_width(x);
  const ArenaScope scope(exec.arena);
  const Tensor partial = dw || db ? exec.empty(DType::f32, {chunks, 2, width}) : Tensor{};
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_spread<T>(width, is_wide(width, dx, dy, x, w), [&](auto spread) {
      using S = decltype(spread);
      layer_norm_backward_kernel<S>
          <<<blocks(ceil_div(chunks, S::rows_a_block)), threads, 0, stream()>>>(
              dx.as<T>(), optional<float>(partial), dy.as<T>(), x.as<T>(), optional<T>(w),
              stats.as<float>(), rows, width, layer_norm_chunk(rows));
      STRATA_LAUNCHED("layer_norm_backward");
    });
  });
  const float* sums = optional<float>(partial);
  if (dw) add_partials(stream(), dw.as<float>(), {sums, 1, chunks, width, 2 * width});
  if (db) add_partials(stream(), db.as<float>(), {sums + width, 1, chunks, width, 2 * width});
}

void CudaBackend::rms_norm(Exec&, Tensor y, Tensor x, Tensor w, float eps, ops::RmsScale scale) {
  if (x.numel() == 0) return;
  const std::int64_t rows = rows_of(x);
  const int width = checked_width(x);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_spread<T>(width, is_wide(width, y, x, w), [&](auto spread) {
      using S = decltype(spread);
      rms_norm_kernel<S><<<blocks(ceil_div(rows, S::rows_a_block)), threads, 0, stream()>>>(
          y.as<T>(), x.as<T>(), w.as<T>(), rows, width, eps, scale);
      STRATA_LAUNCHED("rms_norm");
    });
  });
}

void CudaBackend::accumulate_layer(Exec&, Tensor sum, Tensor x, bool normalised) {
  if (x.numel() == 0) return;
  const std::int64_t rows = rows_of(x);
  const int width = checked_width(x);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_spread<T>(width, is_wide(width, sum, x), [&](auto spread) {
      using S = decltype(spread);
      accumulate_layer_kernel<S><<<blocks(ceil_div(rows, S::rows_a_block)), threads, 0, stream()>>>(
          sum.as<float>(), x.as<T>(), rows, width, normalised);
      STRATA_LAUNCHED("accumulate_layer");
    });
  });
}

}  // namespace strata::cuda
