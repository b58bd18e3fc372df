#pragma once
// The ops of ops.hpp as slow double-precision loops written from their formulas: what tests compare
// backends with. Outputs are returned; parameter gradients are plain sums (nothing is accumulated).

#include <cstdint>
#include <vector>

#include "core/shape.hpp"
#include "kernels/ops.hpp"

namespace strata::reference {

struct Array {
  Shape shape;
  std::vector<double> data;

  Array() = default;
  explicit Array(Shape s, double value = 0)
      : shape(s), data(static_cast<std::size_t>(s.numel()), value) {}

  double& operator[](std::int64_t i) { return data[static_cast<std::size_t>(i)]; }
  double operator[](std::int64_t i) const { return data[static_cast<std::size_t>(i)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(data.size()); }
  bool empty() const { return data.empty(); }
};

struct ParameterGradients {
  Array dx, dw, db;
};

Array linear(const Array& x, const Array& w, const Array& b);
ParameterGradients linear_backward(const Array& dy, const Array& x, const Array& w);

Array conv2d(const Array& x, const Array& w, const Array& b, const ops::Conv2dParams&);
ParameterGradients conv2d_backward(const Array& dy, const Array& x, const Array& w,
                                   const ops::Conv2dParams&);

Array group_norm(const Array& x, const Array& w, const Array& b, int groups, double eps,
                 ops::Activation);
ParameterGradients group_norm_backward(const Array& dy, const Array& x, const Array& w,
                                       const Array& b, int groups, double eps, ops::Activation);
/// Empty w and b: no affine part.
Array layer_norm(const Array& x, const Array& w, const Array& b, double eps);
ParameterGradients layer_norm_backward(const Array& dy, const Array& x, const Array& w, double eps);
Array rms_norm(const Array& x, const Array& w, double eps, ops::RmsScale = ops::RmsScale::weight);

double silu(double x);
double silu_slope(double x);
double gelu(double x);
double gelu_slope(double x);
double activation(double x, ops::Activation);
Array geglu(const Array& h);
Array geglu_backward(const Array& dy, const Array& h);

struct AttentionResult {
  Array o, lse;
  /// What independent relative errors of one in the probabilities would do to o (root mean square):
  /// products on tensor cores take them rounded to bf16.
  Array o_noise;
};
struct AttentionGradients {
  Array dq, dk, dv;
  /// What independent relative errors of one in each product of dout . o would do to dq and dk
  /// (root mean square): the softmax's gradient is a difference in which that sum may cancel.
  Array dq_noise, dk_noise;
  /// The same of the probabilities and of the scores' gradients, as o_noise above.
  Array dv_rounding, dq_rounding, dk_rounding;
};
using Offsets = std::vector<std::int64_t>;
AttentionResult attention(const Array& q, const Array& k, const Array& v, const Offsets& q_offsets,
                          const Offsets& k_offsets, const ops::AttentionParams&);
AttentionGradients attention_backward(const Array& dout, const Array& q, const Array& k,
                                      const Array& v, const Offsets& q_offsets,
                                      const Offsets& k_offsets, const ops::AttentionParams&);
Array rope(const Array& x, const std::vector<std::int64_t>& positions, const Array& inv_freq);

Array upsample_nearest(const Array& x, std::int64_t height, std::int64_t width);
Array upsample_nearest_backward(const Array& dy, std::int64_t height, std::int64_t width);

/// The standard normal of `word` pair (radius, angle): Box and Muller's formula on the same
/// uniforms.
struct Pair {
  double first, second;
};
Pair box_muller(std::uint32_t radius_word, std::uint32_t angle_word);

}  // namespace strata::reference
