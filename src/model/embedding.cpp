#include "model/embedding.hpp"

namespace strata {

VectorEmbedding::VectorEmbedding(ParameterTable& table, const std::string& name, std::int64_t in,
                                 std::int64_t out)
    : linear_1_(table, name + ".linear_1", in, out),
      linear_2_(table, name + ".linear_2", out, out) {}

Tensor VectorEmbedding::forward(Exec& exec, const Weights& weights, Tensor x, Saved* saved) const {
  const Tensor hidden = linear_1_.forward(exec, weights, x);
  const Tensor activated = exec.empty(hidden.dtype, hidden.shape);
  ops::silu(exec, activated, hidden);
  if (saved) *saved = {x, hidden, activated};
  return linear_2_.forward(exec, weights, activated);
}

void VectorEmbedding::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                               const Saved& saved, Tensor dy) const {
  const ArenaScope scope(exec.arena);
  const Tensor dactivated = exec.empty(dy.dtype, saved.activated.shape);
  linear_2_.backward(exec, weights, gradients, dactivated, dy, saved.activated);
  const Tensor dhidden = exec.empty(dy.dtype, saved.hidden.shape);
  ops::silu_backward(exec, dhidden, dactivated, saved.hidden);
  linear_1_.backward(exec, weights, gradients, {}, dhidden, saved.x);
}

void VectorEmbedding::count(Flops& flops) const {
  linear_1_.count(flops, 1);
  linear_2_.count(flops, 1);
}

}  // namespace strata
