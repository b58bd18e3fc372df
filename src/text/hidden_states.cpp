#include "text/hidden_states.hpp"

#include "kernels/ops.hpp"

namespace strata {

HiddenStates::HiddenStates(const TextModel& model, std::int64_t tokens, std::int64_t captions,
                           const EncodeOptions& options)
    : model_(model), layer_count_(model.config().layers), width_(model.config().width) {
  for (const std::string& name : options.strategies) {
    strategies_.push_back(Strategy::parse(name));
    if (strategies_.back().kind == Strategy::Kind::layer) strategies_.back().state_of(layer_count_);
    hidden.emplace_back(DType::f32, Shape{tokens, width_});
  }
  if (options.pooled) pooled = Buffer::zeros(DType::f32, {captions, model.pooled_width()});
  if (options.all_layers) layers = Buffer(DType::f32, {layer_count_ + 1, tokens, width_});
}

void HiddenStates::begin_batch(Exec& exec, std::int64_t first_token, std::int64_t first_caption,
                               Tensor ids, Tensor offsets) {
  begin_ = first_token;
  end_ = first_token + ids.numel();
  first_caption_ = first_caption;
  ids_ = ids;
  offsets_ = offsets;
  sums_.clear();
  for (const Strategy& strategy : strategies_) {
    sums_.emplace_back();
    if (strategy.kind == Strategy::Kind::layer) continue;
    sums_.back() = exec.empty(DType::f32, {ids.numel(), width_});
    ops::fill(exec, sums_.back(), 0.0f);
  }
}

void HiddenStates::store(Exec& exec, Tensor to, Tensor state) const {
  const ArenaScope scope(exec.arena);
  Tensor wide = state;
  if (state.dtype != DType::f32) {
    wide = exec.empty(DType::f32, state.shape);
    ops::cast(exec, wide, state);
  }
  memory::copy(to.data, to.device, wide.data, wide.device, wide.bytes());
}

void HiddenStates::take(Exec& exec, std::int64_t k, Tensor state) {
  for (std::size_t s = 0; s < strategies_.size(); ++s) {
    const Strategy& strategy = strategies_[s];
    if (strategy.kind != Strategy::Kind::layer)
      ops::accumulate_layer(exec, sums_[s], state, strategy.kind == Strategy::Kind::norm_average);
    else if (strategy.state_of(layer_count_) == k)
      store(exec, hidden[s].tensor().rows(begin_, end_), state);
  }
  if (layers.tensor()) {
    const Tensor plane = layers.tensor().rows(k, k + 1).reshape({layers.tensor().shape[1], width_});
    store(exec, plane.rows(begin_, end_), state);
  }
  if (!pooled.tensor() || k < layer_count_) return;
  const ArenaScope scope(exec.arena);
  const std::int64_t captions = offsets_.numel() - 1;
  store(exec, pooled.tensor().rows(first_caption_, first_caption_ + captions),
        model_.pool(exec, ids_, offsets_, state));
}

void HiddenStates::end_batch(Exec& exec) {
  for (std::size_t s = 0; s < strategies_.size(); ++s) {
    if (!sums_[s]) continue;
    ops::scale(exec, sums_[s], sums_[s], 1.0f / static_cast<float>(layer_count_ + 1));
    store(exec, hidden[s].tensor().rows(begin_, end_), sums_[s]);
  }
}

}  // namespace strata
