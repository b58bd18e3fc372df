#include "kernels/reference/reference.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace strata::reference {

using std::int64_t;

// --- linear
// ---------------------------------------------------------------------------------------
Array linear(const Array& x, const Array& w, const Array& b) {
  const int64_t n = w.shape[0], k = w.shape[1], m = x.size() / k;
  Array y({m, n});
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = b.empty() ? 0 : b[j];
      for (int64_t l = 0; l < k; ++l) sum += x[i * k + l] * w[j * k + l];
      y[i * n + j] = sum;
    }
  return y;
}

ParameterGradients linear_backward(const Array& dy, const Array& x, const Array& w) {
  const int64_t n = w.shape[0], k = w.shape[1], m = x.size() / k;
  ParameterGradients g{Array({m, k}), Array({n, k}), Array({n})};
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      g.db[j] += dy[i * n + j];
      for (int64_t l = 0; l < k; ++l) {
        g.dx[i * k + l] += dy[i * n + j] * w[j * k + l];
        g.dw[j * k + l] += dy[i * n + j] * x[i * k + l];
      }
    }
  return g;
}

// --- convolution
// ----------------------------------------------------------------------------------
namespace {

/// Calls f(x index, w index, y index) for each product of a convolution. x (B,H,W,C) w (N,R,S,C).
template <class F>
void each_product(const Shape& x, const Shape& w, const Shape& y, const ops::Conv2dParams& p, F f) {
  for (int64_t b = 0; b < y[0]; ++b)
    for (int64_t i = 0; i < y[1]; ++i)
      for (int64_t j = 0; j < y[2]; ++j)
        for (int64_t n = 0; n < y[3]; ++n)
          for (int64_t r = 0; r < w[1]; ++r)
            for (int64_t s = 0; s < w[2]; ++s) {
              const int64_t row = i * p.stride + r - p.pad_top;
              const int64_t column = j * p.stride + s - p.pad_left;
              if (row < 0 || row >= x[1] || column < 0 || column >= x[2]) continue;
              for (int64_t c = 0; c < x[3]; ++c)
                f(((b * x[1] + row) * x[2] + column) * x[3] + c,
                  ((n * w[1] + r) * w[2] + s) * w[3] + c, ((b * y[1] + i) * y[2] + j) * y[3] + n);
            }
}

}  // namespace

Array conv2d(const Array& x, const Array& w, const Array& b, const ops::Conv2dParams& p) {
  const int64_t height = (x.shape[1] + p.pad_top + p.pad_bottom - w.shape[1]) / p.stride + 1;
  const int64_t width = (x.shape[2] + p.pad_left + p.pad_right - w.shape[2]) / p.stride + 1;
  Array y({x.shape[0], height, width, w.shape[0]});
  if (!b.empty())
    for (int64_t i = 0; i < y.size(); ++i) y[i] = b[i % w.shape[0]];
  each_product(x.shape, w.shape, y.shape, p,
               [&](int64_t xi, int64_t wi, int64_t yi) { y[yi] += x[xi] * w[wi]; });
  return y;
}

ParameterGradients conv2d_backward(const Array& dy, const Array& x, const Array& w,
                                   const ops::Conv2dParams& p) {
  ParameterGradients g{Array(x.shape), Array(w.shape), Array({w.shape[0]})};
  each_product(x.shape, w.shape, dy.shape, p, [&](int64_t xi, int64_t wi, int64_t yi) {
    g.dx[xi] += dy[yi] * w[wi];
    g.dw[wi] += dy[yi] * x[xi];
  });
  for (int64_t i = 0; i < dy.size(); ++i) g.db[i % w.shape[0]] += dy[i];
  return g;
}

// --- normalisation
// --------------------------------------------------------------------------------
namespace {

/// The elements that are normalised together.
using Members = std::vector<int64_t>;

/// xhat of the members; returns 1 / std.
double normalise(const Array& x, const Members& members, double eps, Array& xhat) {
  double mean = 0, variance = 0;
  const auto count = static_cast<double>(members.size());
  for (const auto i : members) mean += x[i] / count;
  for (const auto i : members) variance += (x[i] - mean) * (x[i] - mean) / count;
  const double inverse_std = 1 / std::sqrt(variance + eps);
  for (const auto i : members) xhat[i] = (x[i] - mean) * inverse_std;
  return inverse_std;
}

/// dx = (dxhat - mean(dxhat) - xhat mean(dxhat xhat)) / std over the members.
void normalise_backward(const Array& dxhat, const Array& xhat, const Members& members,
                        double inverse_std, Array& dx) {
  double plain = 0, projected = 0;
  const auto count = static_cast<double>(members.size());
  for (const auto i : members) {
    plain += dxhat[i] / count;
    projected += dxhat[i] * xhat[i] / count;
  }
  for (const auto i : members) dx[i] = inverse_std * (dxhat[i] - plain - xhat[i] * projected);
}

std::vector<Members> groups_of(const Shape& shape, int groups) {
  const int64_t channels = shape[-1], per_group = channels / groups;
  const int64_t pixels = shape.numel() / (shape[0] * channels);
  std::vector<Members> all(static_cast<std::size_t>(shape[0] * groups));
  for (int64_t i = 0; i < shape.numel(); ++i) {
    const int64_t b = i / (pixels * channels), g = i % channels / per_group;
    all[static_cast<std::size_t>(b * groups + g)].push_back(i);
  }
  return all;
}

std::vector<Members> rows_of(const Array& x) {
  const int64_t width = x.shape[-1];
  std::vector<Members> all(static_cast<std::size_t>(x.size() / width));
  for (int64_t i = 0; i < x.size(); ++i) all[static_cast<std::size_t>(i / width)].push_back(i);
  return all;
}

double slope(double z, ops::Activation a) {
  return a == ops::Activation::silu ? silu_slope(z) : 1.0;
}

Array norm(const Array& x, const Array& w, const Array& b, const std::vector<Members>& parts,
           double eps, ops::Activation a) {
  Array y(x.shape), xhat(x.shape);
  const int64_t channels = x.shape[-1];
  for (const auto& part : parts) normalise(x, part, eps, xhat);
  for (int64_t i = 0; i < x.size(); ++i)
    y[i] = w.empty() ? xhat[i] : activation(xhat[i] * w[i % channels] + b[i % channels], a);
  return y;
}

ParameterGradients norm_backward(const Array& dy, const Array& x, const Array& w, const Array& b,
                                 const std::vector<Members>& parts, double eps, ops::Activation a) {
  const int64_t channels = x.shape[-1];
  ParameterGradients g{Array(x.shape), Array({channels}), Array({channels})};
  Array xhat(x.shape), dxhat(x.shape);
  std::vector<double> inverse_std;
  for (const auto& part : parts) inverse_std.push_back(normalise(x, part, eps, xhat));
  for (int64_t i = 0; i < x.size(); ++i) {
    const int64_t c = i % channels;
    const double weight = w.empty() ? 1.0 : w[c], bias = b.empty() ? 0.0 : b[c];
    const double dz = dy[i] * slope(xhat[i] * weight + bias, a);
    g.dw[c] += dz * xhat[i];
    g.db[c] += dz;
    dxhat[i] = dz * weight;
  }
  for (std::size_t p = 0; p < parts.size(); ++p)
    normalise_backward(dxhat, xhat, parts[p], inverse_std[p], g.dx);
  return g;
}

}  // namespace

Array group_norm(const Array& x, const Array& w, const Array& b, int groups, double eps,
                 ops::Activation a) {
  return norm(x, w, b, groups_of(x.shape, groups), eps, a);
}

ParameterGradients group_norm_backward(const Array& dy, const Array& x, const Array& w,
                                       const Array& b, int groups, double eps, ops::Activation a) {
  return norm_backward(dy, x, w, b, groups_of(x.shape, groups), eps, a);
}

Array layer_norm(const Array& x, const Array& w, const Array& b, double eps) {
  return norm(x, w, b, rows_of(x), eps, ops::Activation::none);
}

ParameterGradients layer_norm_backward(const Array& dy, const Array& x, const Array& w,
                                       double eps) {
  return norm_backward(dy, x, w, {}, rows_of(x), eps, ops::Activation::none);
}

Array rms_norm(const Array& x, const Array& w, double eps, ops::RmsScale scale) {
  const int64_t width = x.shape[-1];
  const double shift = scale == ops::RmsScale::one_plus_weight ? 1 : 0;
  Array y(x.shape);
  for (const auto& row : rows_of(x)) {
    double squares = 0;
    for (const auto i : row) squares += x[i] * x[i] / static_cast<double>(width);
    for (const auto i : row) y[i] = x[i] / std::sqrt(squares + eps) * (shift + w[i % width]);
  }
  return y;
}

// --- pointwise
// ------------------------------------------------------------------------------------
double silu(double x) {
  return x / (1 + std::exp(-x));
}

double silu_slope(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s + x * s * (1 - s);
}

double gelu(double x) {
  return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
}

double gelu_slope(double x) {
  const double density = std::exp(-x * x / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  return 0.5 * std::erfc(-x / std::numbers::sqrt2) + x * density;
}

double activation(double x, ops::Activation a) {
  switch (a) {
    case ops::Activation::none:
      return x;
    case ops::Activation::silu:
      return silu(x);
    case ops::Activation::gelu:
      return gelu(x);
    case ops::Activation::gelu_tanh:
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case ops::Activation::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case ops::Activation::relu:
      return std::max(x, 0.0);
  }
  return 0;
}

Array geglu(const Array& h) {
  const int64_t width = h.shape[-1] / 2, rows = h.size() / (2 * width);
  Array y({rows, width});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i)
      y[r * width + i] = h[2 * r * width + i] * gelu(h[(2 * r + 1) * width + i]);
  return y;
}

Array geglu_backward(const Array& dy, const Array& h) {
  const int64_t width = h.shape[-1] / 2, rows = h.size() / (2 * width);
  Array dh(h.shape);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < width; ++i) {
      const int64_t value = 2 * r * width + i, gate = value + width;
      dh[value] = dy[r * width + i] * gelu(h[gate]);
      dh[gate] = dy[r * width + i] * h[value] * gelu_slope(h[gate]);
    }
  return dh;
}

// --- attention
// ------------------------------------------------------------------------------------
namespace {

/// Where head `head` of query row `i` and of key row `j` begin.
struct Heads {
  int64_t heads, key_heads, width;
  Heads(const Array& q, const Array& k)
      : heads(q.shape[1]), key_heads(k.shape[1]), width(q.shape[2]) {}
  int64_t query(int64_t i, int64_t head) const { return (i * heads + head) * width; }
  int64_t key(int64_t j, int64_t head) const {
    return (j * key_heads + head / (heads / key_heads)) * width;
  }
};

/// One query of one head, and the keys of its sequence.
struct Query {
  int64_t row, head, first, keys, position;  // position: which of the keys it stands at
};

/// Calls f(Query) for every query and head.
template <class F>
void each_query(const Heads& at, const Offsets& q, const Offsets& k, F f) {
  for (std::size_t b = 0; b + 1 < q.size(); ++b)
    for (int64_t i = q[b]; i < q[b + 1]; ++i)
      for (int64_t head = 0; head < at.heads; ++head)
        f(Query{i, head, k[b], k[b + 1] - k[b], k[b + 1] - k[b] - (q[b + 1] - i)});
}

/// A score after scale, cap and bias; minus infinity for a key that is not seen.
double score_of(const Query& query, int64_t j, double product, const ops::AttentionParams& p) {
  const int64_t distance = j - query.position;
  if (p.causal && distance > 0) return -INFINITY;
  if (p.window >= 0 && std::abs(distance) > p.window) return -INFINITY;
  double score = product * p.scale;
  if (p.softcap > 0) score = p.softcap * std::tanh(score / p.softcap);
  if (const Tensor& bias = p.relative_bias) {
    const int64_t reach = bias.shape[1] / 2;
    score +=
        bias.as<float>()[query.head * bias.shape[1] + reach + std::clamp(distance, -reach, reach)];
  }
  return score;
}

/// Softmax probabilities of one query, and the log of their denominator.
std::vector<double> probabilities(const Heads& at, const Array& q, const Array& k,
                                  const Query& query, const ops::AttentionParams& params,
                                  double& lse) {
  std::vector<double> p(static_cast<std::size_t>(query.keys));
  double sum = 0;
  for (int64_t j = 0; j < query.keys; ++j) {
    double product = 0;
    for (int64_t c = 0; c < at.width; ++c)
      product +=
          q[at.query(query.row, query.head) + c] * k[at.key(query.first + j, query.head) + c];
    p[static_cast<std::size_t>(j)] = std::exp(score_of(query, j, product, params));
    sum += p[static_cast<std::size_t>(j)];
  }
  for (auto& value : p) value /= sum;
  lse = std::log(sum);
  return p;
}

}  // namespace

AttentionResult attention(const Array& q, const Array& k, const Array& v, const Offsets& q_offsets,
                          const Offsets& k_offsets, const ops::AttentionParams& params) {
  const Heads at(q, k);
  AttentionResult result{Array(q.shape), Array({q.shape[0], q.shape[1]}), Array(q.shape)};
  each_query(at, q_offsets, k_offsets, [&](const Query& query) {
    const auto [i, head, first, keys, position] = query;
    const auto p = probabilities(at, q, k, query, params, result.lse[i * at.heads + head]);
    for (int64_t j = 0; j < keys; ++j)
      for (int64_t c = 0; c < at.width; ++c) {
        const int64_t to = at.query(i, head) + c;
        const double part = p[static_cast<std::size_t>(j)] * v[at.key(first + j, head) + c];
        result.o[to] += part;
        result.o_noise[to] = std::hypot(result.o_noise[to], part);
      }
  });
  return result;
}

AttentionGradients attention_backward(const Array& dout, const Array& q, const Array& k,
                                      const Array& v, const Offsets& q_offsets,
                                      const Offsets& k_offsets,
                                      const ops::AttentionParams& params) {
  const Heads at(q, k);
  AttentionGradients g{Array(q.shape), Array(k.shape), Array(k.shape), Array(q.shape),
                       Array(k.shape), Array(k.shape), Array(q.shape), Array(k.shape)};
  each_query(at, q_offsets, k_offsets, [&](const Query& query) {
    const auto [i, head, first, keys, position] = query;
    double lse = 0, mean = 0;
    const auto p = probabilities(at, q, k, query, params, lse);
    std::vector<double> dp(p.size());
    for (int64_t j = 0; j < keys; ++j) {
      const auto n = static_cast<std::size_t>(j);
      for (int64_t c = 0; c < at.width; ++c) {
        const double d = dout[at.query(i, head) + c];
        dp[n] += d * v[at.key(first + j, head) + c];
        const int64_t kj = at.key(first + j, head) + c;
        g.dv[kj] += p[n] * d;
        g.dv_rounding[kj] = std::hypot(g.dv_rounding[kj], p[n] * d);
      }
      mean += p[n] * dp[n];
    }
    double deviation = 0;
    for (int64_t c = 0; c < at.width; ++c) {
      double o = 0;
      for (int64_t j = 0; j < keys; ++j)
        o += p[static_cast<std::size_t>(j)] * v[at.key(first + j, head) + c];
      deviation = std::hypot(deviation, o * dout[at.query(i, head) + c] * params.scale);
    }
    for (int64_t j = 0; j < keys; ++j) {
      const auto n = static_cast<std::size_t>(j);
      const double ds = p[n] * (dp[n] - mean) * params.scale;
      for (int64_t c = 0; c < at.width; ++c) {
        const int64_t qi = at.query(i, head) + c, kj = at.key(first + j, head) + c;
        g.dq[qi] += ds * k[kj];
        g.dk[kj] += ds * q[qi];
        g.dq_noise[qi] += deviation * p[n] * k[kj];
        g.dq_rounding[qi] = std::hypot(g.dq_rounding[qi], ds * k[kj]);
        g.dk_rounding[kj] = std::hypot(g.dk_rounding[kj], ds * q[qi]);
        g.dk_noise[kj] = std::hypot(g.dk_noise[kj], deviation * p[n] * q[qi]);
      }
    }
  });
  return g;
}

Array rope(const Array& x, const std::vector<int64_t>& positions, const Array& inv_freq) {
  const int64_t heads = x.shape[1], half = x.shape[2] / 2;
  Array y(x.shape);
  for (int64_t i = 0; i < x.shape[0]; ++i)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t c = 0; c < half; ++c) {
        const double angle =
            static_cast<double>(positions[static_cast<std::size_t>(i)]) * inv_freq[c];
        const int64_t low = (i * heads + head) * 2 * half + c, high = low + half;
        y[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
        y[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
      }
  return y;
}

// --- shape
// ----------------------------------------------------------------------------------------
namespace {
template <class F>
void each_upsampled(const Shape& small, const Shape& large, F f) {
  for (int64_t b = 0; b < large[0]; ++b)
    for (int64_t i = 0; i < large[1]; ++i)
      for (int64_t j = 0; j < large[2]; ++j)
        for (int64_t c = 0; c < large[3]; ++c) {
          const int64_t row = i * small[1] / large[1], column = j * small[2] / large[2];
          f(((b * small[1] + row) * small[2] + column) * small[3] + c,
            ((b * large[1] + i) * large[2] + j) * large[3] + c);
        }
}
}  // namespace

Array upsample_nearest(const Array& x, int64_t height, int64_t width) {
  Array y({x.shape[0], height, width, x.shape[3]});
  each_upsampled(x.shape, y.shape, [&](int64_t from, int64_t to) { y[to] = x[from]; });
  return y;
}

Array upsample_nearest_backward(const Array& dy, int64_t height, int64_t width) {
  Array dx({dy.shape[0], height, width, dy.shape[3]});
  each_upsampled(dx.shape, dy.shape, [&](int64_t to, int64_t from) { dx[to] += dy[from]; });
  return dx;
}

// --- diffusion
// ------------------------------------------------------------------------------------
Pair box_muller(std::uint32_t radius_word, std::uint32_t angle_word) {
  const double u = (radius_word + 0.5) / 4294967296.0;
  const double angle = 2 * std::numbers::pi * angle_word / 4294967296.0;
  const double radius = std::sqrt(-2 * std::log(u));
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace strata::reference
