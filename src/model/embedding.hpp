#pragma once

#include "model/layers.hpp"

namespace strata {

/// diffusers' TimestepEmbedding: linear, SiLU, linear. Serves the timestep and the pooled caption.
class VectorEmbedding {
 public:
  struct Saved {
    Tensor x, hidden, activated;
  };

  VectorEmbedding() = default;
  VectorEmbedding(ParameterTable&, const std::string& name, std::int64_t in, std::int64_t out);

  /// x (B,in) -> (B,out)
  Tensor forward(Exec&, const Weights&, Tensor x, Saved*) const;
  /// dy (B,out); the input has no gradient.
  void backward(Exec&, const Weights&, Gradients&, const Saved&, Tensor dy) const;
  void count(Flops&) const;

 private:
  Linear linear_1_, linear_2_;
};

}  // namespace strata
