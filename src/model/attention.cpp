#include "model/attention.hpp"

#include <cmath>
#include <optional>

namespace strata {

Attention::Attention(ParameterTable& table, const std::string& name, const Config& config)
    : width_(config.width), heads_(config.heads) {
  STRATA_CHECK(width_ % heads_ == 0, "{}: {} channels, {} heads", name, width_, heads_);
  to_k_ = Linear(table, name + "." + config.names.k, config.context, width_, config.qkv_bias);
  to_v_ = Linear(table, name + "." + config.names.v, config.context, width_, config.qkv_bias);
  to_q_ = Linear(table, name + "." + config.names.q, width_, width_, config.qkv_bias);
  to_out_ = Linear(table, name + "." + config.names.out, width_, width_);
}

ops::AttentionParams Attention::params(std::int64_t longest_keys) const {
  const std::int64_t head_width = width_ / heads_;
  return {.scale = 1.0f / std::sqrt(static_cast<float>(head_width)), .longest_keys = longest_keys};
}

Tensor Attention::forward(Exec& exec, const Weights& weights, Ragged x, Ragged context,
                          Saved* saved, Tensor y) const {
  if (!y) y = exec.empty(x.rows.dtype, x.rows.shape);
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);

  const Tensor q = to_q_.forward(exec, weights, x.rows);
  const Tensor k = to_k_.forward(exec, weights, context.rows);
  const Tensor v = to_v_.forward(exec, weights, context.rows);
  const Tensor o = exec.empty(q.dtype, q.shape);
  const Tensor lse = saved ? exec.empty(DType::f32, {q.shape[0], heads_}) : Tensor{};
  ops::attention(exec, o.reshape(head_shape(o)), lse, q.reshape(head_shape(q)),
                 k.reshape(head_shape(k)), v.reshape(head_shape(v)), x.offsets, context.offsets,
                 params(context.longest));
  to_out_.forward(exec, weights, o, y);
  if (saved)
    *saved = {x.rows, x.offsets, context.rows, context.offsets, q, k, v, o, lse, context.longest};
  return y;
}

void Attention::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                         const Saved& saved, Tensor dx, Tensor dcontext, Tensor dy) const {
  const ArenaScope scope(exec.arena);
  const auto heads = [&](Tensor rows) { return rows.reshape(head_shape(rows)); };
  const Tensor dq = exec.empty(dy.dtype, saved.q.shape);
  const Tensor dk = exec.empty(dy.dtype, saved.k.shape);
  const Tensor dv = exec.empty(dy.dtype, saved.v.shape);
  {
    const ArenaScope inner(exec.arena);
    const Tensor dout = exec.empty(dy.dtype, saved.o.shape);
    to_out_.backward(exec, weights, gradients, dout, dy, saved.o);
    ops::attention_backward(exec, heads(dq), heads(dk), heads(dv), heads(dout), heads(saved.q),
                            heads(saved.k), heads(saved.v), heads(saved.o), saved.lse,
                            saved.q_offsets, saved.k_offsets, params(saved.longest_keys));
  }
  to_q_.backward(exec, weights, gradients, dx, dq, saved.x);

  const bool self = saved.context.data == saved.x.data;
  const auto through = [&](const Linear& projection, Tensor dprojected) {
    const ArenaScope inner(exec.arena);
    const Tensor dhere = self || dcontext ? exec.empty(dy.dtype, saved.context.shape) : Tensor{};
    projection.backward(exec, weights, gradients, dhere, dprojected, saved.context);
    if (self)
      ops::add(exec, dx, dx, dhere);
    else if (dcontext)
      ops::accumulate(exec, dcontext, dhere);
  };
  through(to_v_, dv);
  through(to_k_, dk);
}

void Attention::count(Flops& flops, double queries, double keys) const {
  to_q_.count(flops, queries);
  to_k_.count(flops, keys);
  to_v_.count(flops, keys);
  flops.add(4.0 * queries * keys * static_cast<double>(width_));
  to_out_.count(flops, queries);
}

}  // namespace strata
