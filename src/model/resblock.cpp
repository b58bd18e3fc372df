#include "model/resblock.hpp"

namespace strata {

ResBlock::ResBlock(ParameterTable& table, const std::string& name, const Config& config) {
  const int first = table.size();
  if (config.in != config.out)
    shortcut_.emplace(table, name + ".conv_shortcut", config.in, config.out, true,
                      MatrixShape::conv_1x1);
  norm1_ = GroupNorm(table, name + ".norm1", config.in, config.groups, config.eps,
                     ops::Activation::silu);
  conv1_ = Conv2d(table, name + ".conv1", config.in, config.out, 3, {});
  if (config.time_dim)
    time_proj_.emplace(table, name + ".time_emb_proj", config.time_dim, config.out);
  norm2_ = GroupNorm(table, name + ".norm2", config.out, config.groups, config.eps,
                     ops::Activation::silu);
  conv2_ = Conv2d(table, name + ".conv2", config.out, config.out, 3, {});
  ids_ = ids_since(table, first);
}

Tensor ResBlock::forward(Exec& exec, const Weights& weights, Tensor x, Tensor time, Saved* saved,
                         Tensor y) const {
  if (!y) y = exec.empty(x.dtype, conv1_.output_shape(x.shape));
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);

  Tensor stats1, stats2;
  const Tensor normed1 = norm1_.forward(exec, weights, x, saved ? &stats1 : nullptr);
  const Tensor hidden = conv1_.forward(exec, weights, normed1);
  if (time_proj_) {
    const ArenaScope scope(exec.arena);
    ops::add_per_sample(exec, hidden, hidden, time_proj_->forward(exec, weights, time));
  }
  const Tensor normed2 = norm2_.forward(exec, weights, hidden, saved ? &stats2 : nullptr);
  conv2_.forward(exec, weights, normed2, y);
  {
    const ArenaScope scope(exec.arena);
    ops::add(exec, y, y, shortcut_ ? shortcut_->forward(exec, weights, x) : x);
  }
  if (saved) *saved = {x, time, stats1, normed1, hidden, stats2, normed2};
  return y;
}

void ResBlock::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                        const Saved& saved, Tensor dx, Tensor dtime, Tensor dy) const {
  const ArenaScope scope(exec.arena);
  const Tensor dhidden = exec.empty(dy.dtype, saved.hidden.shape);
  {
    const ArenaScope inner(exec.arena);
    const Tensor dnormed2 = exec.empty(dy.dtype, saved.normed2.shape);
    conv2_.backward(exec, weights, gradients, dnormed2, dy, saved.normed2);
    norm2_.backward(exec, weights, gradients, dhidden, dnormed2, saved.hidden, saved.stats2);
  }
  if (time_proj_) {
    const ArenaScope inner(exec.arena);
    const Tensor dprojected = exec.empty(dy.dtype, {dy.shape[0], conv1_.out()});
    ops::add_per_sample_backward(exec, dprojected, dhidden);
    const Tensor dtime_here = exec.empty(dy.dtype, dtime.shape);
    time_proj_->backward(exec, weights, gradients, dtime_here, dprojected, saved.time);
    ops::accumulate(exec, dtime, dtime_here);
  }
  const Tensor dnormed1 = exec.empty(dy.dtype, saved.normed1.shape);
  conv1_.backward(exec, weights, gradients, dnormed1, dhidden, saved.normed1);
  norm1_.backward(exec, weights, gradients, dx, dnormed1, saved.x, saved.stats1);
  Tensor dshortcut = dy;
  if (shortcut_) {
    dshortcut = dnormed1;  // read above, so its memory is free
    shortcut_->backward(exec, weights, gradients, dshortcut, dy, saved.x);
  }
  ops::add(exec, dx, dx, dshortcut);
}

void ResBlock::count(Flops& flops, double pixels) const {
  conv1_.count(flops, pixels);
  if (time_proj_) time_proj_->count(flops, 1);
  conv2_.count(flops, pixels);
  if (shortcut_) shortcut_->count(flops, pixels);
}

}  // namespace strata
