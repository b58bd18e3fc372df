#pragma once
// The layers that carry parameters. A layer keeps the ids of its parameters and its widths; weights
// and gradients are handed in. Each backward stands right beneath its forward in layers.cpp.
//
// forward: an absent y is taken from the arena. backward: parameter gradients are accumulated and
// reported ready, dx is assigned, an absent dx is not computed; what it needs of the forward pass
// (x, stats) is handed in.

#include <string>

#include "kernels/ops.hpp"
#include "model/parameters.hpp"

namespace strata {

/// Multiply-adds count as two; norms and pointwise operations are not counted.
struct Flops {
  double forward = 0, backward = 0;
  /// A contraction of `forward` operations; backward costs the same again for each gradient.
  void add(double operations, int gradients = 2) {
    forward += operations;
    backward += gradients * operations;
  }
};

/// How a matrix (N,K) is stored in the file.
enum class MatrixShape {
  matrix,    // (N,K)
  conv_1x1,  // (N,K,1,1)
};

class Linear {
 public:
  Linear() = default;
  Linear(ParameterTable&, const std::string& name, std::int64_t in, std::int64_t out,
         bool bias = true, MatrixShape = MatrixShape::matrix);

  /// x (...,in) -> y (...,out)
  Tensor forward(Exec&, const Weights&, Tensor x, Tensor y = {}) const;
  void backward(Exec&, const Weights&, Gradients&, Tensor dx, Tensor dy, Tensor x) const;
  void count(Flops&, double rows, int gradients = 2) const;
  std::int64_t out() const { return out_; }

 private:
  Tensor matrix(Tensor weight) const { return weight.reshape({out_, in_}); }

  ParamId weight_ = no_param, bias_ = no_param;
  std::int64_t in_ = 0, out_ = 0;
};

class Conv2d {
 public:
  Conv2d() = default;
  Conv2d(ParameterTable&, const std::string& name, std::int64_t in, std::int64_t out, int kernel,
         ops::Conv2dParams);

  /// x (B,H,W,in) -> y (B,H',W',out)
  Tensor forward(Exec&, const Weights&, Tensor x, Tensor y = {}) const;
  void backward(Exec&, const Weights&, Gradients&, Tensor dx, Tensor dy, Tensor x) const;
  /// pixels of the output.
  void count(Flops&, double pixels, int gradients = 2) const;
  /// Output extents of an input (B,H,W,in).
  Shape output_shape(const Shape& x) const;
  std::int64_t out() const { return out_; }

 private:
  ParamId weight_ = no_param, bias_ = no_param;
  std::int64_t in_ = 0, out_ = 0;
  int kernel_ = 3;
  ops::Conv2dParams params_;
};

class GroupNorm {
 public:
  GroupNorm() = default;
  GroupNorm(ParameterTable&, const std::string& name, std::int64_t channels, std::int64_t groups,
            float eps, ops::Activation = ops::Activation::none);

  /// x (B,...,C) -> act(norm(x)); *stats receives what backward needs (null: not kept).
  Tensor forward(Exec&, const Weights&, Tensor x, Tensor* stats) const;
  void backward(Exec&, const Weights&, Gradients&, Tensor dx, Tensor dy, Tensor x,
                Tensor stats) const;

 private:
  ParamId weight_ = no_param, bias_ = no_param;
  int groups_ = 1;
  float eps_ = 0;
  ops::Activation activation_ = ops::Activation::none;
};

class LayerNorm {
 public:
  LayerNorm() = default;
  LayerNorm(ParameterTable&, const std::string& name, std::int64_t width, float eps);

  /// x (M,C) -> y (M,C); *stats receives what backward needs (null: not kept).
  Tensor forward(Exec&, const Weights&, Tensor x, Tensor* stats) const;
  void backward(Exec&, const Weights&, Gradients&, Tensor dx, Tensor dy, Tensor x,
                Tensor stats) const;

 private:
  ParamId weight_ = no_param, bias_ = no_param;
  float eps_ = 0;
};

/// The ids that were added to the table since it had `first` parameters, last first. Modules add
/// theirs in the reverse order of backward, so this is the order in which backward completes them.
std::vector<ParamId> ids_since(const ParameterTable&, int first);

}  // namespace strata
