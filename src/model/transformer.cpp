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
    : inner_(4 * config.width), text_only_(config.text_only) {
  const std::int64_t width = config.width;
  norm1_ = LayerNorm(table, name + ".norm1", width, layer_norm_eps);
  first_ =
      Attention(table, name + ".attn1", {width, text_only_ ? config.context : width, config.heads});
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
  s.after_first = exec.empty(rows.dtype, rows.shape);
  {
    std::optional<ArenaScope> scope;
    if (!saved) scope.emplace(exec.arena);
    const Ragged normed1{norm1_.forward(exec, weights, rows, kept(s.stats1)), x.offsets};
    first_.forward(exec, weights, normed1, text_only_ ? text : normed1, kept(s.first),
                   s.after_first);
  }
  ops::add(exec, s.after_first, s.after_first, rows);

  s.after_cross = exec.empty(rows.dtype, rows.shape);
  {
    std::optional<ArenaScope> scope;
    if (!saved) scope.emplace(exec.arena);
    const Ragged normed2{norm2_.forward(exec, weights, s.after_first, kept(s.stats2)), x.offsets};
    cross_.forward(exec, weights, normed2, text, kept(s.cross), s.after_cross);
  }
  ops::add(exec, s.after_cross, s.after_cross, s.after_first);

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

  const Tensor dafter_first = exec.empty(dy.dtype, saved.x.shape);
  cross_.backward(exec, weights, gradients, saved.cross, dnormed, dtext, dafter_cross);
  norm2_.backward(exec, weights, gradients, dafter_first, dnormed, saved.after_first, saved.stats2);
  ops::add(exec, dafter_first, dafter_first, dafter_cross);

  first_.backward(exec, weights, gradients, saved.first, dnormed, text_only_ ? dtext : Tensor{},
                  dafter_first);
  norm1_.backward(exec, weights, gradients, dx, dnormed, saved.x, saved.stats1);
  ops::add(exec, dx, dx, dafter_first);
}

void TransformerBlock::count(Flops& flops, double pixels, double tokens) const {
  first_.count(flops, pixels, text_only_ ? tokens : pixels);
  cross_.count(flops, pixels, tokens);
  expand_.count(flops, pixels);
  contract_.count(flops, pixels);
}

// --- SpatialTransformer -------------------------------------------------------------------------

SpatialTransformer::SpatialTransformer(ParameterTable& table, const std::string& name,
                                       const Config& config) {
  const int first = table.size();
  const auto stored = config.linear_projection ? MatrixShape::matrix : MatrixShape::conv_1x1;
  const std::int64_t channels = config.channels, width = channels / config.heads * config.heads;
  norm_ = GroupNorm(table, name + ".norm", channels, config.groups, spatial_norm_eps);
  proj_in_ = Linear(table, name + ".proj_in", channels, width, true, stored);
  for (std::int64_t i = 0; i < config.layers; ++i)
    blocks_.emplace_back(
        table, fmt::format("{}.transformer_blocks.{}", name, i),
        TransformerBlock::Config{width, config.heads, config.context, config.text_only});
  proj_out_ = Linear(table, name + ".proj_out", width, channels, true, stored);
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
  const Shape rows = saved.normed.shape, hidden = saved.projected.shape;
  Tensor dhidden = exec.empty(dy.dtype, hidden), dnext = exec.empty(dy.dtype, hidden);
  proj_out_.backward(exec, weights, gradients, dhidden, dy.reshape(rows), saved.projected);
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    blocks_[i].backward(exec, weights, gradients, saved.blocks[i], dnext, dtext, dhidden);
    std::swap(dhidden, dnext);
  }
  const Tensor dnormed = hidden == rows ? dnext : exec.empty(dy.dtype, rows);
  proj_in_.backward(exec, weights, gradients, dnormed, dhidden, saved.normed);
  norm_.backward(exec, weights, gradients, dx, dnormed.reshape(dx.shape), saved.x, saved.stats);
  ops::add(exec, dx, dx, dy);
}

void SpatialTransformer::count(Flops& flops, double pixels, double tokens) const {
  proj_in_.count(flops, pixels);
  for (const auto& block : blocks_) block.count(flops, pixels, tokens);
  proj_out_.count(flops, pixels);
}

}  // namespace strata
