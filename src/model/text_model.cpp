#include "model/text_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.hpp"

namespace strata {

// --- loading ------------------------------------------------------------------------------------

TextModel::Norm TextModel::read_norm(Exec& exec, const std::string& name) const {
  if (name.empty()) return {};
  Norm norm;
  norm.weight = weights_->read(exec, name + ".weight", compute_);
  if (config_.norm == TextNorm::layer) norm.bias = weights_->read(exec, name + ".bias", compute_);
  return norm;
}

TextModel::Linear TextModel::read_linear(Exec& exec, const std::string& name, bool bias) const {
  if (name.empty()) return {};
  Linear linear;
  linear.weight = weights_->pack(exec, name + ".weight", compute_);
  if (bias) linear.bias = weights_->read(exec, name + ".bias", compute_);
  return linear;
}

TextModel::Layer TextModel::read_layer(Exec& exec, std::int64_t index) const {
  const TextConfig& c = config_;
  const TextLayerNames names = text_layer_names(c, index);
  Layer layer;
  layer.attention_norm = read_norm(exec, names.attention_norm);
  layer.post_attention_norm = read_norm(exec, names.post_attention_norm);
  layer.mlp_norm = read_norm(exec, names.mlp_norm);
  layer.post_mlp_norm = read_norm(exec, names.post_mlp_norm);
  layer.query = read_linear(exec, names.query, c.qkv_bias);
  layer.key = read_linear(exec, names.key, c.qkv_bias);
  layer.value = read_linear(exec, names.value, c.qkv_bias);
  layer.output = read_linear(exec, names.output, c.output_bias);
  layer.gate = read_linear(exec, names.gate, c.mlp_bias);
  layer.up = read_linear(exec, names.up, c.mlp_bias);
  layer.down = read_linear(exec, names.down, c.mlp_bias);
  return layer;
}

void TextModel::announce_layer(std::int64_t index) const {
  const TextLayerNames names = text_layer_names(config_, index);
  for (const std::string& name :
       {names.query, names.key, names.value, names.output, names.gate, names.up, names.down})
    if (!name.empty()) weights_->will_need(name + ".weight");
}

namespace {

Buffer to_device(Exec& exec, Buffer host) {
  if (exec.device() == host_device) return host;
  Buffer there(host.tensor().dtype, host.tensor().shape, exec.device());
  memory::copy(there.tensor().data, exec.device(), host.tensor().data, host_device,
               host.tensor().bytes());
  return there;
}

/// (heads, 2R+1) from the table by bucket (buckets, heads): R is where buckets end.
Buffer bias_by_distance(const TextConfig& config, Tensor table) {
  const std::int64_t reach = config.relative_distance, span = 2 * reach + 1;
  Buffer bias(DType::f32, {config.heads, span});
  for (std::int64_t distance = -reach; distance <= reach; ++distance)
    for (std::int64_t head = 0; head < config.heads; ++head)
      bias.as<float>()[head * span + reach + distance] =
          table.as<float>()[config.relative_bucket(distance) * config.heads + head];
  return bias;
}

}  // namespace

void TextModel::read_positions(Exec& exec) {
  const TextNames names = text_names(config_);
  if (config_.positions > 0)
    positions_ = weights_->read(exec, names.positions + ".weight", compute_);
  if (config_.relative_buckets > 0) {
    Exec host(host_device, 1);
    const Buffer table = weights_->read(host, names.relative_bias + ".weight", DType::f32);
    relative_ = to_device(exec, bias_by_distance(config_, table));
  }
  if (config_.rope_theta > 0) {
    const std::vector<float> frequencies = config_.inverse_frequencies();
    Buffer host(DType::f32, {config_.head_width / 2});
    std::copy(frequencies.begin(), frequencies.end(), host.as<float>());
    inv_freq_ = to_device(exec, std::move(host));
  }
}

TextModel TextModel::load(Exec& exec, const std::string& dir, DType compute, bool streaming) {
  STRATA_CHECK(compute == DType::f32 || compute == DType::bf16);
  TextModel model;
  model.config_ = TextConfig::from_json_file(dir + "/config.json");
  model.compute_ = compute;
  model.streaming_ = streaming;
  model.weights_ = std::make_unique<TextWeights>(dir, model.config_);
  const TextNames names = text_names(model.config_);
  model.embedding_ = model.weights_->stored(exec, names.embedding + ".weight");
  model.read_positions(exec);
  for (std::int64_t i = 0; !streaming && i < model.config_.layers; ++i)
    model.layers_.push_back(model.read_layer(exec, i));
  model.final_norm_ = model.read_norm(exec, names.final_norm);
  if (model.config_.family == TextFamily::clip && model.weights_->projection_width() > 0)
    model.projection_ = model.read_linear(exec, "text_projection", false);
  return model;
}

// --- forward ------------------------------------------------------------------------------------

namespace {

std::int64_t whole_blocks(std::int64_t rows, std::int64_t block) {
  return (rows + block - 1) / block * block;
}

/// counts (T) i64 followed by zeros up to `rows`, in `own` where there are any.
Tensor padded(Tensor counts, std::int64_t rows, Buffer& own) {
  if (counts.numel() == rows) return counts;
  own = Buffer::zeros(DType::i64, {rows});
  std::memcpy(own.tensor().data, counts.data, counts.bytes());
  return own;
}

}  // namespace

void TextModel::normalise(Exec& exec, Tensor y, Tensor x, const Norm& norm) const {
  if (config_.norm == TextNorm::layer)
    return ops::layer_norm(exec, y, {}, x, norm.weight, norm.bias, config_.norm_eps);
  ops::rms_norm(
      exec, y, x, norm.weight, config_.norm_eps,
      config_.norm == TextNorm::rms ? ops::RmsScale::weight : ops::RmsScale::one_plus_weight);
}

void TextModel::linear(Exec& exec, Tensor y, Tensor x, const Linear& linear,
                       std::int64_t block) const {
  ops::linear(exec, y, x, linear.weight, linear.bias, block);
}

Buffer TextModel::positions_of(const TokenBatch& texts) const {
  const auto* at = texts.offsets.as<std::int64_t>();
  const std::int64_t count = texts.offsets.numel() - 1;
  STRATA_CHECK(at[count] == texts.ids.numel());
  Buffer positions(DType::i64, texts.ids.shape);
  auto* places = positions.as<std::int64_t>();
  for (std::int64_t b = 0; b < count; ++b) {
    if (config_.positions > 0 && at[b + 1] - at[b] > config_.positions)
      fail(Exit::data, "a text of more than {} tokens: the model has positions for no more",
           config_.positions);
    std::iota(places + at[b], places + at[b + 1], 0);
  }
  return positions;
}

/// residual (rows, width) += the learned position of each token in its sequence.
void TextModel::add_positions(Exec& exec, Tensor residual, const Batch& batch) const {
  const ArenaScope scope(exec.arena);
  const Tensor positions = exec.empty(compute_, residual.shape);
  Buffer places;
  ops::embedding(exec, positions, positions_, padded(batch.of.positions, batch.rows, places));
  ops::add(exec, residual, residual, positions);
}

/// (rows, width); rows past the tokens belong to id 0 and are nobody's.
Tensor TextModel::embed(Exec& exec, const Batch& batch) const {
  const Shape shape{batch.rows, config_.width};
  const Tensor residual = exec.empty(compute_, shape);
  Buffer own;
  const Tensor ids = padded(batch.of.ids, batch.rows, own);
  if (embedding_.dtype == compute_) {
    ops::embedding(exec, residual, embedding_, ids);
  } else {
    const ArenaScope scope(exec.arena);
    const Tensor stored = exec.empty(embedding_.dtype, shape);
    ops::embedding(exec, stored, embedding_, ids);
    ops::cast(exec, residual, stored);
  }
  if (config_.scaled_embedding) {
    const auto factor = static_cast<float>(std::sqrt(static_cast<double>(config_.width)));
    ops::scale(exec, residual, residual,
               compute_ == DType::bf16 ? to_float(to_bf16(factor)) : factor);
  }
  if (positions_.tensor()) add_positions(exec, residual, batch);
  return residual;
}

/// A window of W lets a causal query see W keys, its own included, and a bidirectional one W on
/// either side, as transformers has it.
ops::AttentionParams TextModel::attention_params(std::int64_t layer, bool causal) const {
  const std::int64_t window = config_.windows[static_cast<std::size_t>(layer)];
  return {config_.attention_scale, causal,
          window > 0 && causal ? window - 1
          : window > 0         ? window
                               : -1,
          config_.attention_softcap, relative_.tensor()};
}

void TextModel::attention_block(Exec& exec, const Layer& layer, std::int64_t index,
                                const Batch& batch) const {
  const ArenaScope scope(exec.arena);
  const Tensor residual = batch.residual;
  const std::int64_t d = config_.head_width;
  const Tensor normed = exec.empty(compute_, residual.shape);
  normalise(exec, normed, residual, layer.attention_norm);

  const auto project = [&](const Linear& linear) {
    const Tensor y = exec.empty(compute_, {batch.rows, linear.weight.n});
    this->linear(exec, y, normed, linear, batch.block);
    return y;
  };
  const auto by_head = [&](Tensor x) {
    return x.rows(0, batch.tokens).reshape({batch.tokens, x.shape[1] / d, d});
  };
  const Tensor query = by_head(project(layer.query)), key = by_head(project(layer.key));
  const Tensor value = by_head(project(layer.value));
  if (inv_freq_.tensor()) {
    ops::rope(exec, query, batch.of.positions, inv_freq_);
    ops::rope(exec, key, batch.of.positions, inv_freq_);
  }
  const Tensor attended = exec.empty(compute_, {batch.rows, layer.query.weight.n});
  batch.of.attend(index, by_head(attended), query, key, value);
  ops::fill(exec, attended.rows(batch.tokens, batch.rows), 0.0f);
  linear(exec, normed, attended, layer.output, batch.block);
  if (config_.post_norms) normalise(exec, normed, normed, layer.post_attention_norm);
  ops::add(exec, residual, residual, normed);
}

/// Rows that go through the MLP together: all, but for one thread no more than keep its widest
/// activations in cache, where any do.
std::int64_t TextModel::mlp_rows(const Exec& exec, std::int64_t rows) const {
  constexpr std::int64_t cached_bytes = 3 << 18;
  const auto row_bytes = 2 * config_.feed_forward * static_cast<std::int64_t>(size_of(compute_));
  const std::int64_t cached = cached_bytes / row_bytes / ops::packed_rows * ops::packed_rows;
  return exec.device() == host_device && exec.threads() == 1 && cached > 0 ? cached : rows;
}

void TextModel::mlp_block(Exec& exec, const Layer& layer, Tensor residual,
                          std::int64_t block) const {
  const ArenaScope scope(exec.arena);
  const std::int64_t rows = residual.shape[0];
  const Tensor normed = exec.empty(compute_, residual.shape);
  normalise(exec, normed, residual, layer.mlp_norm);
  const Tensor up = exec.empty(compute_, {rows, config_.feed_forward});
  linear(exec, up, normed, layer.up, block);
  if (config_.gated) {
    const Tensor gate = exec.empty(compute_, up.shape);
    linear(exec, gate, normed, layer.gate, block);
    ops::gated(exec, up, gate, up, config_.activation);
  } else {
    ops::activation(exec, up, up, config_.activation);
  }
  linear(exec, normed, up, layer.down, block);
  if (config_.post_norms) normalise(exec, normed, normed, layer.post_mlp_norm);
  ops::add(exec, residual, residual, normed);
}

void TextModel::forward(Exec& exec, Tensor ids, Tensor offsets, bool causal,
                        const TakeState& state) const {
  const TokenBatch batch{ids, offsets};
  forward(exec, std::span(&batch, 1), causal,
          [&](std::size_t, std::int64_t k, Tensor hidden) { state(k, hidden); });
}

void TextModel::forward(Exec& exec, std::span<const TokenBatch> texts, bool causal,
                        const TakeBatchState& state) const {
  std::vector<Buffer> positions;
  std::vector<Rows> rows;
  for (const TokenBatch& text : texts) {
    rows.push_back({text.ids, positions.emplace_back(positions_of(text)),
                    [&exec, this, offsets = text.offsets, causal](std::int64_t layer, Tensor o,
                                                                  Tensor q, Tensor k, Tensor v) {
                      ops::attention(exec, o, {}, q, k, v, offsets, offsets,
                                     attention_params(layer, causal));
                    }});
  }
  run(exec, rows, ops::packed_rows, state);
}

void TextModel::forward(Exec& exec, const PaddedTokens& texts, bool causal,
                        const TakeState& state) const {
  const auto attend = [&](std::int64_t layer, Tensor o, Tensor q, Tensor k, Tensor v) {
    ops::fill(exec, o, 0.0f);  // rows behind the texts
    ops::AttentionParams params = attention_params(layer, causal);
    params.longest_keys = texts.longest;
    ops::attention(exec, o, {}, q, k, v, texts.offsets, texts.offsets, params);
  };
  const Rows rows{texts.ids, texts.positions, attend};
  run(exec, std::span(&rows, 1), ops::packed_rows,
      [&](std::size_t, std::int64_t k, Tensor hidden) { state(k, hidden); });
}

void TextModel::run(Exec& exec, std::span<const Rows> all, std::int64_t block,
                    const TakeBatchState& state) const {
  const ArenaScope scope(exec.arena);
  std::vector<Batch> batches;
  for (const Rows& rows : all) {
    const std::int64_t tokens = rows.ids.numel();
    STRATA_CHECK(tokens > 0 && rows.positions.numel() == tokens);
    batches.push_back({rows, tokens, whole_blocks(tokens, block), block, {}});
    batches.back().residual = embed(exec, batches.back());
    state(batches.size() - 1, 0, batches.back().residual.rows(0, tokens));
  }
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const Layer read = streaming_ ? read_layer(exec, i) : Layer{};
    if (streaming_ && i + 1 < config_.layers) announce_layer(i + 1);
    const Layer& layer = streaming_ ? read : layers_[static_cast<std::size_t>(i)];
    for (std::size_t b = 0; b < batches.size(); ++b) {
      const Batch& batch = batches[b];
      attention_block(exec, layer, i, batch);
      const std::int64_t step = mlp_rows(exec, batch.rows);
      for (std::int64_t row = 0; row < batch.rows; row += step)
        mlp_block(exec, layer, batch.residual.rows(row, std::min(row + step, batch.rows)), block);
      if (i + 1 < config_.layers) state(b, i + 1, batch.residual.rows(0, batch.tokens));
    }
  }
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const ArenaScope of_batch(exec.arena);
    const Tensor residual = batches[b].residual, normed = exec.empty(compute_, residual.shape);
    normalise(exec, normed, residual, final_norm_);
    state(b, config_.layers, normed.rows(0, batches[b].tokens));
  }
}

ops::PackedWeight TextModel::read_head(Exec& exec) const {
  return weights_->pack_head(exec, config_, compute_);
}

// --- pooling ------------------------------------------------------------------------------------

std::int64_t TextModel::pooled_width() const {
  return projection_.weight.n > 0 ? projection_.weight.n : config_.width;
}

Tensor TextModel::pool(Exec& exec, Tensor ids, Tensor offsets, Tensor last_state) const {
  const auto *id = ids.as<std::int64_t>(), *at = offsets.as<std::int64_t>();
  const std::int64_t count = offsets.numel() - 1;
  const std::int64_t rows = whole_blocks(count, ops::packed_rows);
  const Tensor pooled = exec.empty(DType::f32, {count, pooled_width()});
  const ArenaScope scope(exec.arena);
  const Tensor chosen = exec.empty(compute_, {rows, config_.width});
  ops::fill(exec, chosen, 0.0f);
  for (std::int64_t b = 0; b < count; ++b) {
    if (at[b] == at[b + 1]) continue;
    std::int64_t token = at[b + 1] - 1;
    if (config_.family == TextFamily::clip)
      token = std::find(id + at[b], id + token, id[token]) - id;
    const Tensor from = last_state.rows(token, token + 1);
    exec.copy(chosen.rows(b, b + 1).data, from.data, from.bytes());
  }
  Tensor result = chosen;
  if (projection_.weight.n > 0) {
    result = exec.empty(compute_, {rows, pooled_width()});
    ops::linear(exec, result, chosen, projection_.weight);
  }
  ops::cast(exec, pooled, result.rows(0, count));
  return pooled;
}

}  // namespace strata
