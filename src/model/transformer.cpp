#include "model/transformer.hpp"

#include <optional>
#include <utility>

namespace strata {

namespace {

constexpr float layer_norm_eps = 1e-5f;
constexpr float spatial_norm_eps =
    1e-6f;  // fixed in diffusers' Transformer2DModel, whatever norm_eps

}  // namespace

// --- TransformerBlock ---------------------------------------------------------------------------

TransformerBlock::TransformerBlock(ParameterTable& table, const std::string& name,
                                   const Config& config)
    : inner_(4 * config.width) {
  const std::int64_t width = config.width;
  norm1_ = LayerNorm(table, name + ".norm1", width, layer_norm_eps);
  self_ = Attention(table, name + ".attn1", {width, width, config.heads});
  norm2_ = LayerNorm(table, name + ".norm2", width, layer_norm_eps);
  cross_ = Attention(table, name + ".attn2", {width, config.context, config.heads});
  norm3_ = LayerNorm(table, name + ".norm3", width, layer_norm_eps);
  expand_ = Linear(table, name + ".ff.net.0.proj", width, 2 * inner_);
  contract_ = Linear(table, name + ".ff.net.2", inner_, width);
}

Tensor TransformerBlock::forward(Exec& exec, const Weights& weights, Ragged x, Ragged text,
                                 Saved* saved, Tensor y) const {
  const Tensor rows = x.rows;
  if (!y) y = exec.empty(rows.dtype, rows.shape);
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);
  Saved unused;
  Saved& s = saved ? *saved : unused;
  const auto kept = [&](auto& part) { return saved ? &part : nullptr; };

  s.x = rows;
  s.after_self = exec.empty(rows.dtype, rows.shape);
  {
    std::optional<ArenaScope> scope;
    if (!saved) scope.emplace(exec.arena);
    const Ragged normed1{norm1_.forward(exec, weights, rows, kept(s.stats1)), x.offsets};
    self_.forward(exec, weights, normed1, normed1, kept(s.self), s.after_self);
  }
  ops::add(exec, s.after_self, s.after_self, rows);

  s.after_cross = exec.empty(rows.dtype, rows.shape);
  {
    std::optional<ArenaScope> scope;
    if (!saved) scope.emplace(exec.arena);
    const Ragged normed2{norm2_.forward(exec, weights, s.after_self, kept(s.stats2)), x.offsets};
    cross_.forward(exec, weights, normed2, text, kept(s.cross), s.after_cross);
  }
  ops::add(exec, s.after_cross, s.after_cross, s.after_self);

  s.normed3 = norm3_.forward(exec, weights, s.after_cross, kept(s.stats3));
  s.gate_in = expand_.forward(exec, weights, s.normed3);
  s.gated = exec.empty(rows.dtype, {rows.shape[0], inner_});
  ops::geglu(exec, s.gated, s.gate_in);
  contract_.forward(exec, weights, s.gated, y);
  ops::add(exec, y, y, s.after_cross);
  return y;
}

void TransformerBlock::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                                const Saved& saved, Tensor dx, Tensor dtext, Tensor dy) const {
  const ArenaScope scope(exec.arena);
  const Tensor dnormed = exec.empty(dy.dtype, saved.x.shape);  // of each norm's result in turn
  const Tensor dafter_cross = exec.empty(dy.dtype, saved.x.shape);
  {
    const ArenaScope inner(exec.arena);
    const Tensor dgate_in = exec.empty(dy.dtype, saved.gate_in.shape);
    const Tensor dgated = exec.empty(dy.dtype, saved.gated.shape);
    contract_.backward(exec, weights, gradients, dgated, dy, saved.gated);
    ops::geglu_backward(exec, dgate_in, dgated, saved.gate_in);
    expand_.backward(exec, weights, gradients, dnormed, dgate_in, saved.normed3);
  }
  norm3_.backward(exec, weights, gradients, dafter_cross, dnormed, saved.after_cross, saved.stats3);
  ops::add(exec, dafter_cross, dafter_cross, dy);

  const Tensor dafter_self = exec.empty(dy.dtype, saved.x.shape);
  cross_.backward(exec, weights, gradients, saved.cross, dnormed, dtext, dafter_cross);
  norm2_.backward(exec, weights, gradients, dafter_self, dnormed, saved.after_self, saved.stats2);
  ops::add(exec, dafter_self, dafter_self, dafter_cross);

  self_.backward(exec, weights, gradients, saved.self, dnormed, {}, dafter_self);
  norm1_.backward(exec, weights, gradients, dx, dnormed, saved.x, saved.stats1);
  ops::add(exec, dx, dx, dafter_self);
}

void TransformerBlock::count(Flops& flops, double pixels, double tokens) const {
  self_.count(flops, pixels, pixels);
  cross_.count(flops, pixels, tokens);
  expand_.count(flops, pixels);
  contract_.count(flops, pixels);
}

// --- SpatialTransformer -------------------------------------------------------------------------

SpatialTransformer::SpatialTransformer(ParameterTable& table, const std::string& name,
                                       const Config& config) {
  const int first = table.size();
  const auto stored = config.linear_projection ? MatrixShape::matrix : MatrixShape::conv_1x1;
  const std::int64_t channels = config.channels;
  norm_ = GroupNorm(table, name + ".norm", channels, config.groups, spatial_norm_eps);
  proj_in_ = Linear(table, name + ".proj_in", channels, channels, true, stored);
  for (std::int64_t i = 0; i < config.layers; ++i)
    blocks_.emplace_back(table, fmt::format("{}.transformer_blocks.{}", name, i),
                         TransformerBlock::Config{channels, config.heads, config.context});
  proj_out_ = Linear(table, name + ".proj_out", channels, channels, true, stored);
  ids_ = ids_since(table, first);
}

Tensor SpatialTransformer::forward(Exec& exec, const Weights& weights, Tensor x, Ragged text,
                                   Saved* saved, Tensor y) const {
  if (!y) y = exec.empty(x.dtype, x.shape);
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);
  Saved unused;
  Saved& s = saved ? *saved : unused;

  const std::int64_t batch = x.shape[0], pixels = x.shape[1] * x.shape[2];
  s.offsets.resize(batch + 1);
  for (std::int64_t b = 0; b <= batch; ++b) s.offsets[b] = b * pixels;
  const Tensor offsets = view_of(s.offsets.data(), {batch + 1});
  const Shape rows{batch * pixels, x.shape[3]};

  s.x = x;
  s.normed = norm_.forward(exec, weights, x, saved ? &s.stats : nullptr).reshape(rows);
  Tensor hidden = proj_in_.forward(exec, weights, s.normed);
  if (saved) saved->blocks.resize(blocks_.size());
  for (std::size_t i = 0; i < blocks_.size(); ++i)
    hidden = blocks_[i].forward(exec, weights, {hidden, offsets}, text,
                                saved ? &saved->blocks[i] : nullptr);
  s.projected = hidden;
  proj_out_.forward(exec, weights, hidden, y.reshape(rows));
  ops::add(exec, y, y, x);
  return y;
}

void SpatialTransformer::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                                  const Saved& saved, Tensor dx, Tensor dtext, Tensor dy) const {
  const ArenaScope scope(exec.arena);
  const Shape rows = saved.normed.shape;
  Tensor dhidden = exec.empty(dy.dtype, rows), dnext = exec.empty(dy.dtype, rows);
  proj_out_.backward(exec, weights, gradients, dhidden, dy.reshape(rows), saved.projected);
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    blocks_[i].backward(exec, weights, gradients, saved.blocks[i], dnext, dtext, dhidden);
    std::swap(dhidden, dnext);
  }
  proj_in_.backward(exec, weights, gradients, dnext, dhidden, saved.normed);
  norm_.backward(exec, weights, gradients, dx, dnext.reshape(dx.shape), saved.x, saved.stats);
  ops::add(exec, dx, dx, dy);
}

void SpatialTransformer::count(Flops& flops, double pixels, double tokens) const {
  proj_in_.count(flops, pixels);
  for (const auto& block : blocks_) block.count(flops, pixels, tokens);
  proj_out_.count(flops, pixels);
}

}  // namespace strata
