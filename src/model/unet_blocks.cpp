#include "model/unet_blocks.hpp"

#include "core/spans.hpp"

namespace strata {

// --- Stage --------------------------------------------------------------------------------------

Tensor Stage::forward(Exec& exec, const Weights& weights, Tensor x, const Conditions& conditions,
                      Saved* saved, Tensor y) const {
  if (!y) y = exec.empty(x.dtype, {x.shape[0], x.shape[1], x.shape[2], out()});
  return run(exec, weights, x, conditions, saved && saved->recompute ? nullptr : saved, y);
}

/// saved null: nothing is kept.
Tensor Stage::run(Exec& exec, const Weights& weights, Tensor x, const Conditions& conditions,
                  Saved* saved, Tensor y) const {
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);
  Tensor hidden;
  {
    const spans::Span span("resnet", "part");
    hidden = resblock_.forward(exec, weights, x, conditions.time,
                               saved ? &saved->resblock : nullptr, transformer_ ? Tensor{} : y);
  }
  if (transformer_) {
    const spans::Span span("transformer", "part");
    transformer_->forward(exec, weights, hidden, conditions.text,
                          saved ? &saved->transformer : nullptr, y);
  }
  return y;
}

Tensor Stage::backward(Exec& exec, const Weights& weights, Gradients& gradients, const Saved& saved,
                       Tensor x, Chain& chain, const ConditionGradients& dconditions, Tensor dy,
                       Tensor dx) const {
  if (saved.recompute) {
    const ArenaScope scope(exec.arena);
    Saved again;
    run(exec, weights, x, dconditions.conditions, &again, exec.empty(dy.dtype, dy.shape));
    return backward(exec, weights, gradients, again, x, chain, dconditions, dy, dx);
  }
  Tensor dhidden = dy;
  if (transformer_) {
    const spans::Span span("transformer", "part");
    dhidden = chain.next(dy.shape);
    transformer_->backward(exec, weights, gradients, saved.transformer, dhidden, dconditions.dtext,
                           dy);
  }
  const spans::Span span("resnet", "part");
  if (!dx) dx = chain.next(x.shape);
  resblock_.backward(exec, weights, gradients, saved.resblock, dx, dconditions.dtime, dhidden);
  return dx;
}

void Stage::count(Flops& flops, double pixels, double tokens) const {
  resblock_.count(flops, pixels);
  if (transformer_) transformer_->count(flops, pixels, tokens);
}

void Stage::append_completion_order(std::vector<ParamId>& order) const {
  if (transformer_)
    order.insert(order.end(), transformer_->ids().begin(), transformer_->ids().end());
  order.insert(order.end(), resblock_.ids().begin(), resblock_.ids().end());
}

// --- DownBlock ----------------------------------------------------------------------------------

Tensor DownBlock::forward(Exec& exec, const Weights& weights, Tensor x,
                          const Conditions& conditions, std::vector<Tensor>& skips,
                          Saved* saved) const {
  if (saved) saved->stages.resize(stages_.size(), {.recompute = saved->recompute});
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    if (saved) saved->inputs.push_back(x);
    x = stages_[i].forward(exec, weights, x, conditions, saved ? &saved->stages[i] : nullptr);
    skips.push_back(x);
  }
  if (downsampler_) {
    const spans::Span span("resample", "part");
    if (saved) saved->inputs.push_back(x);
    x = downsampler_->conv.forward(exec, weights, x);
    skips.push_back(x);
  }
  return x;
}

Tensor DownBlock::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                           const Saved& saved, Chain& chain, const ConditionGradients& dconditions,
                           std::vector<Tensor>& dskips, Tensor dy) const {
  const auto add_skip = [&] {
    ops::add(exec, dy, dy, dskips.back());
    dskips.pop_back();
  };
  if (downsampler_) {
    const spans::Span span("resample", "part");
    add_skip();
    const Tensor x = saved.inputs.back(), dx = chain.next(x.shape);
    downsampler_->conv.backward(exec, weights, gradients, dx, dy, x);
    dy = dx;
  }
  for (std::size_t i = stages_.size(); i-- > 0;) {
    add_skip();
    dy = stages_[i].backward(exec, weights, gradients, saved.stages[i], saved.inputs[i], chain,
                             dconditions, dy);
  }
  return dy;
}

void DownBlock::count(Flops& flops, std::int64_t& height, std::int64_t& width,
                      double tokens) const {
  for (const auto& stage : stages_) stage.count(flops, static_cast<double>(height * width), tokens);
  if (!downsampler_) return;
  const Shape below = downsampler_->conv.output_shape({1, height, width, 1});
  height = below[1];
  width = below[2];
  downsampler_->conv.count(flops, static_cast<double>(height * width));
}

void DownBlock::append_completion_order(std::vector<ParamId>& order) const {
  if (downsampler_) order.insert(order.end(), downsampler_->ids.begin(), downsampler_->ids.end());
  for (std::size_t i = stages_.size(); i-- > 0;) stages_[i].append_completion_order(order);
}

// --- UpBlock ------------------------------------------------------------------------------------

Tensor UpBlock::join(Exec& exec, Tensor x, Tensor skip) const {
  const Tensor joined =
      exec.empty(x.dtype, {x.shape[0], x.shape[1], x.shape[2], x.shape[3] + skip.shape[3]});
  ops::concat(exec, joined, x, skip);
  return joined;
}

Tensor UpBlock::forward(Exec& exec, const Weights& weights, Tensor x, const Conditions& conditions,
                        std::vector<Tensor>& skips, Saved* saved) const {
  const bool keep = saved && !saved->recompute;
  if (saved) saved->stages.resize(stages_.size(), {.recompute = saved->recompute});
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const Tensor skip = skips.back();
    skips.pop_back();
    const Tensor y = exec.empty(x.dtype, {x.shape[0], x.shape[1], x.shape[2], stages_[i].out()});
    std::optional<ArenaScope> scope;
    if (!keep) scope.emplace(exec.arena);
    const Tensor joined = join(exec, x, skip);
    if (saved) {
      saved->inputs.push_back(x);
      saved->skips.push_back(skip);
      if (keep) saved->joined.push_back(joined);
    }
    x = stages_[i].forward(exec, weights, joined, conditions, saved ? &saved->stages[i] : nullptr,
                           y);
  }
  if (!upsampler_) return x;
  const spans::Span span("resample", "part");
  const Shape target = skips.back().shape;
  const Shape upsampled_shape{x.shape[0], target[1], target[2], x.shape[3]};
  const Tensor y = exec.empty(x.dtype, upsampler_->conv.output_shape(upsampled_shape));
  std::optional<ArenaScope> scope;
  if (!keep) scope.emplace(exec.arena);
  const Tensor upsampled = exec.empty(x.dtype, upsampled_shape);
  ops::upsample_nearest(exec, upsampled, x);
  if (saved) {
    saved->inputs.push_back(x);
    saved->upsampled_shape = upsampled_shape;
    if (keep) saved->upsampled = upsampled;
  }
  return upsampler_->conv.forward(exec, weights, upsampled, y);
}

Tensor UpBlock::backward(Exec& exec, const Weights& weights, Gradients& gradients,
                         const Saved& saved, Chain& chain, const ConditionGradients& dconditions,
                         std::vector<Tensor>& dskips, Tensor dy) const {
  if (upsampler_) {
    const spans::Span span("resample", "part");
    const ArenaScope scope(exec.arena);
    const Tensor x = saved.inputs.back();
    Tensor upsampled = saved.upsampled;
    if (saved.recompute) {
      upsampled = exec.empty(x.dtype, saved.upsampled_shape);
      ops::upsample_nearest(exec, upsampled, x);
    }
    const Tensor dupsampled = exec.empty(dy.dtype, saved.upsampled_shape);
    upsampler_->conv.backward(exec, weights, gradients, dupsampled, dy, upsampled);
    dy = chain.next(x.shape);
    ops::upsample_nearest_backward(exec, dy, dupsampled);
  }
  for (std::size_t i = stages_.size(); i-- > 0;) {
    const Tensor x = saved.inputs[i], skip = saved.skips[i];
    dskips.push_back(exec.empty(dy.dtype, skip.shape));
    const ArenaScope scope(exec.arena);
    const Tensor joined = saved.recompute ? join(exec, x, skip) : saved.joined[i];
    const Tensor djoined = exec.empty(dy.dtype, joined.shape);
    stages_[i].backward(exec, weights, gradients, saved.stages[i], joined, chain, dconditions, dy,
                        djoined);
    dy = chain.next(x.shape);
    ops::split(exec, dy, dskips.back(), djoined);
  }
  return dy;
}

void UpBlock::count(Flops& flops, double pixels, double pixels_above, double tokens) const {
  for (const auto& stage : stages_) stage.count(flops, pixels, tokens);
  if (upsampler_) upsampler_->conv.count(flops, pixels_above);
}

void UpBlock::append_completion_order(std::vector<ParamId>& order) const {
  if (upsampler_) order.insert(order.end(), upsampler_->ids.begin(), upsampler_->ids.end());
  for (std::size_t i = stages_.size(); i-- > 0;) stages_[i].append_completion_order(order);
}

}  // namespace strata
