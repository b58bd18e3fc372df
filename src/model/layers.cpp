#include "model/layers.hpp"

namespace strata {

namespace {

Tensor or_empty(Exec& exec, Tensor y, DType dtype, Shape shape) {
  return y ? y : exec.empty(dtype, shape);
}

/// A layer runs once a pass: its gradients are complete when its backward is. Last added first, as
/// ids_since has them.
void complete(Gradients& gradients, ParamId weight, ParamId bias) {
  const ParamId both[] = {bias, weight};
  gradients.ready(std::span(both).subspan(bias == no_param ? 1 : 0));
}

}  // namespace

// --- Linear -------------------------------------------------------------------------------------

Linear::Linear(ParameterTable& table, const std::string& name, std::int64_t in, std::int64_t out,
               bool bias, MatrixShape stored)
    : in_(in), out_(out) {
  weight_ = stored == MatrixShape::matrix
                ? table.add(name + ".weight", {out, in})
                : table.add(name + ".weight", {out, in, 1, 1}, ParamLayout::conv_krsc);
  if (bias) bias_ = table.add(name + ".bias", {out});
}

Tensor Linear::forward(Exec& exec, const Weights& weights, Tensor x, Tensor y) const {
  Shape shape = x.shape;
  shape[-1] = out_;
  y = or_empty(exec, y, x.dtype, shape);
  ops::linear(exec, y, x, matrix(weights[weight_]), weights[bias_]);
  return y;
}

void Linear::backward(Exec& exec, const Weights& weights, Gradients& gradients, Tensor dx,
                      Tensor dy, Tensor x) const {
  ops::linear_backward(exec, dx, matrix(gradients[weight_]), gradients[bias_], dy, x,
                       matrix(weights[weight_]));
  complete(gradients, weight_, bias_);
}

void Linear::count(Flops& flops, double rows, int gradients) const {
  flops.add(2.0 * rows * static_cast<double>(in_) * static_cast<double>(out_), gradients);
}

// --- Conv2d -------------------------------------------------------------------------------------

Conv2d::Conv2d(ParameterTable& table, const std::string& name, std::int64_t in, std::int64_t out,
               int kernel, ops::Conv2dParams params)
    : in_(in), out_(out), kernel_(kernel), params_(params) {
  weight_ = table.add(name + ".weight", {out, in, kernel, kernel}, ParamLayout::conv_krsc);
  bias_ = table.add(name + ".bias", {out});
}

Shape Conv2d::output_shape(const Shape& x) const {
  const auto extent = [&](std::int64_t size, int pad) {
    return (size + pad - kernel_) / params_.stride + 1;
  };
  return {x[0], extent(x[1], params_.pad_top + params_.pad_bottom),
          extent(x[2], params_.pad_left + params_.pad_right), out_};
}

Tensor Conv2d::forward(Exec& exec, const Weights& weights, Tensor x, Tensor y) const {
  y = or_empty(exec, y, x.dtype, output_shape(x.shape));
  ops::conv2d(exec, y, x, weights[weight_], weights[bias_], params_);
  return y;
}

void Conv2d::backward(Exec& exec, const Weights& weights, Gradients& gradients, Tensor dx,
                      Tensor dy, Tensor x) const {
  ops::conv2d_backward(exec, dx, gradients[weight_], gradients[bias_], dy, x, weights[weight_],
                       params_);
  complete(gradients, weight_, bias_);
}

void Conv2d::count(Flops& flops, double pixels, int gradients) const {
  flops.add(2.0 * pixels * static_cast<double>(in_ * out_ * kernel_ * kernel_), gradients);
}

// --- GroupNorm ----------------------------------------------------------------------------------

GroupNorm::GroupNorm(ParameterTable& table, const std::string& name, std::int64_t channels,
                     std::int64_t groups, float eps, ops::Activation activation)
    : weight_(table.add(name + ".weight", {channels})),
      bias_(table.add(name + ".bias", {channels})),
      groups_(static_cast<int>(groups)),
      eps_(eps),
      activation_(activation) {
  STRATA_CHECK(channels % groups == 0, "{}: {} channels, {} groups", name, channels, groups);
}

Tensor GroupNorm::forward(Exec& exec, const Weights& weights, Tensor x, Tensor* stats) const {
  const Tensor y = exec.empty(x.dtype, x.shape);
  if (stats) *stats = exec.empty(DType::f32, {x.shape[0], groups_, 2});
  ops::group_norm(exec, y, stats ? *stats : Tensor{}, x, weights[weight_], weights[bias_], groups_,
                  eps_, activation_);
  return y;
}

void GroupNorm::backward(Exec& exec, const Weights& weights, Gradients& gradients, Tensor dx,
                         Tensor dy, Tensor x, Tensor stats) const {
  ops::group_norm_backward(exec, dx, gradients[weight_], gradients[bias_], dy, stats, x,
                           weights[weight_], weights[bias_], groups_, activation_);
  complete(gradients, weight_, bias_);
}

// --- LayerNorm ----------------------------------------------------------------------------------

LayerNorm::LayerNorm(ParameterTable& table, const std::string& name, std::int64_t width, float eps)
    : weight_(table.add(name + ".weight", {width})),
      bias_(table.add(name + ".bias", {width})),
      eps_(eps) {}

Tensor LayerNorm::forward(Exec& exec, const Weights& weights, Tensor x, Tensor* stats) const {
  const Tensor y = exec.empty(x.dtype, x.shape);
  if (stats) *stats = exec.empty(DType::f32, {x.shape[0], 2});
  ops::layer_norm(exec, y, stats ? *stats : Tensor{}, x, weights[weight_], weights[bias_], eps_);
  return y;
}

void LayerNorm::backward(Exec& exec, const Weights& weights, Gradients& gradients, Tensor dx,
                         Tensor dy, Tensor x, Tensor stats) const {
  ops::layer_norm_backward(exec, dx, gradients[weight_], gradients[bias_], dy, stats, x,
                           weights[weight_]);
  complete(gradients, weight_, bias_);
}

std::vector<ParamId> ids_since(const ParameterTable& table, int first) {
  std::vector<ParamId> ids;
  for (ParamId id = table.size() - 1; id >= first; --id) ids.push_back(id);
  return ids;
}

}  // namespace strata
