#include "text/hidden_states.hpp"

#include "kernels/ops.hpp"

namespace strata {

HiddenStates::HiddenStates(const TextModel& model, std::int64_t tokens, std::int64_t captions,
                           const EncodeOptions& options, Device where)
    : model_(model), layer_count_(model.config().layers), width_(model.config().width) {
  for (const std::string& name : options.strategies) {
    strategies_.push_back(Strategy::parse(name));
    if (strategies_.back().kind == Strategy::Kind::layer) strategies_.back().state_of(layer_count_);
    hidden.emplace_back(DType::f32, Shape{tokens, width_}, where);
  }
  if (options.pooled) pooled = Buffer::zeros(DType::f32, {captions, model.pooled_width()});
  if (options.all_layers) layers = Buffer(DType::f32, {layer_count_ + 1, tokens, width_}, where);
}

void HiddenStates::add_batch(Exec& exec, std::int64_t first_token, std::int64_t first_caption,
                             const TokenBatch& texts) {
  Batch batch{first_token, first_token + texts.ids.numel(), first_caption, texts, {}};
  for (std::size_t s = 0; s < strategies_.size(); ++s) {
    batch.sums.emplace_back();
    if (strategies_[s].kind == Strategy::Kind::layer) continue;
    const Tensor rows = hidden[s].tensor().rows(batch.begin, batch.end);
    batch.sums[s] = rows.device == exec.device() ? rows : exec.empty(DType::f32, rows.shape);
    ops::fill(exec, batch.sums[s], 0.0f);
  }
  batches_.push_back(std::move(batch));
}

void HiddenStates::store(Exec& exec, Tensor to, Tensor state) const {
  if (to.device == exec.device()) return ops::cast(exec, to, state);
  const ArenaScope scope(exec.arena);
  Tensor wide = state;
  if (state.dtype != DType::f32) {
    wide = exec.empty(DType::f32, state.shape);
    ops::cast(exec, wide, state);
  }
  memory::copy(to.data, to.device, wide.data, wide.device, wide.bytes());
}

void HiddenStates::take(Exec& exec, std::size_t index, std::int64_t k, Tensor state) {
  const Batch& batch = batches_[index];
  for (std::size_t s = 0; s < strategies_.size(); ++s) {
    const Strategy& strategy = strategies_[s];
    if (strategy.kind != Strategy::Kind::layer)
      ops::accumulate_layer(exec, batch.sums[s], state,
                            strategy.kind == Strategy::Kind::norm_average);
    else if (strategy.state_of(layer_count_) == k)
      store(exec, hidden[s].tensor().rows(batch.begin, batch.end), state);
  }
  if (layers.tensor()) {
    const Tensor plane = layers.tensor().rows(k, k + 1).reshape({layers.tensor().shape[1], width_});
    store(exec, plane.rows(batch.begin, batch.end), state);
  }
  if (k < layer_count_) return;
  finish_sums(exec, batch);
  if (!pooled.tensor()) return;
  const ArenaScope scope(exec.arena);
  const auto& [ids, offsets] = batch.texts;
  const std::int64_t captions = offsets.numel() - 1;
  store(exec, pooled.tensor().rows(batch.first_caption, batch.first_caption + captions),
        model_.pool(exec, ids, offsets, state));
}

void HiddenStates::finish_sums(Exec& exec, const Batch& batch) const {
  for (std::size_t s = 0; s < strategies_.size(); ++s) {
    const Tensor sum = batch.sums[s];
    if (!sum) continue;
    ops::scale(exec, sum, sum, 1.0f / static_cast<float>(layer_count_ + 1));
    const Tensor rows = hidden[s].tensor().rows(batch.begin, batch.end);
    if (rows.device != exec.device()) store(exec, rows, sum);
  }
}

}  // namespace strata
