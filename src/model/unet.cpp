#include "model/unet.hpp"

#include <algorithm>

#include "core/spans.hpp"

namespace strata {

namespace {

constexpr int resampling_kernel = 3;
constexpr int no_transformer = -1;

/// Padding that keeps an image's size, for odd kernels.
ops::Conv2dParams same_size(std::int64_t kernel) {
  const int pad = static_cast<int>(kernel / 2);
  return {.pad_top = pad, .pad_left = pad, .pad_bottom = pad, .pad_right = pad};
}

/// padding 0 still pads below and to the right, as diffusers' Downsample2D does.
ops::Conv2dParams half_size(std::int64_t padding) {
  const int pad = static_cast<int>(padding);
  return {.stride = 2, .pad_top = pad, .pad_left = pad, .pad_bottom = 1, .pad_right = 1};
}

std::int64_t depth_at(const std::vector<std::int64_t>& depths, int stage) {
  return depths.size() == 1 ? depths[0] : depths[static_cast<std::size_t>(stage)];
}

Resampler make_resampler(ParameterTable& table, const std::string& name, std::int64_t channels,
                         ops::Conv2dParams params) {
  const int first = table.size();
  Conv2d conv(table, name, channels, channels, resampling_kernel, params);
  return {conv, ids_since(table, first)};
}

}  // namespace

// --- construction -------------------------------------------------------------------------------

UNet::UNet(UNetConfig config) : config_(std::move(config)) {
  const auto& channels = config_.block_out_channels;
  const std::int64_t time_dim = config_.time_embedding_dim();
  conv_in_ = Conv2d(table_, "conv_in", config_.in_channels, channels[0],
                    static_cast<int>(config_.conv_in_kernel), same_size(config_.conv_in_kernel));
  input_ids_ = ids_since(table_, 0);
  int first = table_.size();
  time_embedding_ = VectorEmbedding(table_, "time_embedding", channels[0], time_dim);
  if (config_.pooled_dim)
    pooled_embedding_ = VectorEmbedding(table_, "class_embedding", config_.pooled_dim, time_dim);
  if (config_.encoder_hid_dim)
    text_projection_.emplace(table_, "encoder_hid_proj", config_.encoder_hid_dim,
                             config_.cross_attention_dim, config_.encoder_hid_proj_bias);
  embedding_ids_ = ids_since(table_, first);

  std::vector<std::int64_t> skip_channels{channels[0]};
  add_down_blocks(skip_channels);
  add_middle();
  add_up_blocks(skip_channels);

  first = table_.size();
  norm_out_ = GroupNorm(table_, "conv_norm_out", channels[0], config_.norm_num_groups,
                        config_.norm_eps, ops::Activation::silu);
  conv_out_ = Conv2d(table_, "conv_out", channels[0], config_.out_channels,
                     static_cast<int>(config_.conv_out_kernel), same_size(config_.conv_out_kernel));
  output_ids_ = ids_since(table_, first);
  table_.arrange(completion_order());
}

Stage UNet::make_stage(const std::string& block, int index, int level, std::int64_t in,
                       std::int64_t transformer_layers, bool only_cross_attention) {
  const std::int64_t out = config_.block_out_channels[level];
  ResBlock resblock(
      table_, fmt::format("{}.resnets.{}", block, index),
      {in, out, config_.time_embedding_dim(), config_.norm_num_groups, config_.norm_eps});
  std::optional<SpatialTransformer> transformer;
  if (transformer_layers != no_transformer)
    transformer.emplace(
        table_, fmt::format("{}.attentions.{}", block, index),
        SpatialTransformer::Config{out, config_.heads[level], config_.cross_attention_dim,
                                   transformer_layers, config_.norm_num_groups,
                                   config_.use_linear_projection, only_cross_attention});
  return {std::move(resblock), std::move(transformer)};
}

void UNet::add_down_blocks(std::vector<std::int64_t>& skip_channels) {
  std::int64_t in = config_.block_out_channels[0];
  for (int level = 0; level < config_.levels(); ++level) {
    const std::string name = fmt::format("down_blocks.{}", level);
    std::vector<Stage> stages;
    const auto& depths = config_.transformer_layers[level];
    for (int i = 0; i < config_.layers_per_block[level]; ++i) {
      stages.push_back(make_stage(
          name, i, level, in, config_.down_attention[level] ? depth_at(depths, i) : no_transformer,
          config_.only_cross_attention[level]));
      in = config_.block_out_channels[level];
      skip_channels.push_back(in);
    }
    std::optional<Resampler> downsampler;
    if (level + 1 < config_.levels()) {
      downsampler = make_resampler(table_, name + ".downsamplers.0.conv", in,
                                   half_size(config_.downsample_padding));
      skip_channels.push_back(in);
    }
    down_.emplace_back(std::move(stages), std::move(downsampler));
  }
}

void UNet::add_middle() {
  if (config_.middle == UNetConfig::Middle::none) return;
  const int deepest = config_.levels() - 1;
  const std::int64_t width = config_.block_out_channels[deepest];
  const bool attends = config_.middle == UNetConfig::Middle::cross_attention;
  middle_.push_back(make_stage("mid_block", 0, deepest, width,
                               attends ? config_.transformer_layers[deepest][0] : no_transformer,
                               false));
  if (attends) middle_.push_back(make_stage("mid_block", 1, deepest, width, no_transformer, false));
}

void UNet::add_up_blocks(std::vector<std::int64_t>& skip_channels) {
  const auto& up_layers = config_.up_transformer_layers.empty() ? config_.transformer_layers
                                                                : config_.up_transformer_layers;
  std::int64_t in = config_.block_out_channels.back();
  for (int level = config_.levels() - 1; level >= 0; --level) {
    const std::string name = fmt::format("up_blocks.{}", config_.levels() - 1 - level);
    std::vector<Stage> stages;
    const auto& depths = up_layers[level];
    for (int i = 0; i <= config_.layers_per_block[level]; ++i) {
      stages.push_back(
          make_stage(name, i, level, in + skip_channels.back(),
                     config_.up_attention[level] ? depth_at(depths, i) : no_transformer,
                     config_.only_cross_attention[level]));
      skip_channels.pop_back();
      in = config_.block_out_channels[level];
    }
    std::optional<Resampler> upsampler;
    if (level > 0)
      upsampler =
          make_resampler(table_, name + ".upsamplers.0.conv", in, same_size(resampling_kernel));
    up_.emplace_back(std::move(stages), std::move(upsampler));
  }
}

std::vector<ParamId> UNet::completion_order() const {
  std::vector<ParamId> order = output_ids_;
  for (std::size_t i = up_.size(); i-- > 0;) up_[i].append_completion_order(order);
  for (std::size_t i = middle_.size(); i-- > 0;) middle_[i].append_completion_order(order);
  for (std::size_t i = down_.size(); i-- > 0;) down_[i].append_completion_order(order);
  order.insert(order.end(), input_ids_.begin(), input_ids_.end());
  order.insert(order.end(), embedding_ids_.begin(), embedding_ids_.end());
  return order;
}

// --- embeddings ---------------------------------------------------------------------------------

Tensor UNet::embed(Exec& exec, const Weights& weights, Tensor timesteps, Tensor pooled, DType dtype,
                   Saved* saved) const {
  const spans::Span span("embeddings", "block");
  const Tensor waves = exec.empty(dtype, {timesteps.shape[0], config_.block_out_channels[0]});
  ops::timestep_embedding(exec, waves, timesteps, config_.flip_sin_to_cos, config_.freq_shift);
  const Tensor embedding =
      time_embedding_.forward(exec, weights, waves, saved ? &saved->time : nullptr);
  if (config_.pooled_dim)
    ops::add(exec, embedding, embedding,
             pooled_embedding_.forward(exec, weights, pooled, saved ? &saved->pooled : nullptr));
  const Tensor activated = exec.empty(dtype, embedding.shape);
  ops::silu(exec, activated, embedding);
  if (saved) saved->embedding = embedding;
  return activated;
}

Tensor UNet::embed_text(Exec& exec, const Weights& weights, Tensor tokens, Saved* saved) const {
  if (!tokens) tokens = exec.empty(tokens.dtype, tokens.shape);  // no caption has a token
  const Tensor text = text_projection_ ? text_projection_->forward(exec, weights, tokens) : tokens;
  if (saved) saved->tokens = tokens;
  return text;
}

void UNet::backward_embeddings(Exec& exec, const Weights& weights, Gradients& gradients,
                               const Saved& saved, const ConditionGradients& dconditions) const {
  const spans::Span span("embeddings", "block");
  const DType dtype = saved.embedding.dtype;
  if (text_projection_) {
    const Tensor dtext = exec.empty(dtype, dconditions.dtext.shape);
    ops::cast(exec, dtext, dconditions.dtext);
    text_projection_->backward(exec, weights, gradients, {}, dtext, saved.tokens);
  }
  const Tensor dactivated = exec.empty(dtype, dconditions.dtime.shape);
  ops::cast(exec, dactivated, dconditions.dtime);
  const Tensor dembedding = exec.empty(dtype, dactivated.shape);
  ops::silu_backward(exec, dembedding, dactivated, saved.embedding);
  if (config_.pooled_dim)
    pooled_embedding_.backward(exec, weights, gradients, saved.pooled, dembedding);
  time_embedding_.backward(exec, weights, gradients, saved.time, dembedding);
}

Tensor UNet::center(Exec& exec, Tensor sample) const {
  const Tensor centered = exec.empty(sample.dtype, sample.shape);
  ops::add(exec, centered, sample, sample);
  const ArenaScope scope(exec.arena);
  const Tensor minus_one = exec.empty(sample.dtype, sample.shape);
  ops::fill(exec, minus_one, -1.0f);
  ops::add(exec, centered, centered, minus_one);
  return centered;
}

// --- the network --------------------------------------------------------------------------------

Tensor UNet::forward(Exec& exec, const Weights& weights, Tensor sample, Tensor timesteps,
                     const TextBatch& text, Tensor pooled, Saved* saved) const {
  const Shape& in = sample.shape;
  STRATA_CHECK(in.rank() == 4 && in[3] == config_.in_channels, "sample {}", to_string(in));
  const bool text_fits =
      text.tokens.shape[-1] == config_.text_dim() || (!config_.attends() && !text_projection_);
  STRATA_CHECK(text_fits && text.offsets.numel() == in[0] + 1, "tokens {}",
               to_string(text.tokens.shape));
  STRATA_CHECK(static_cast<bool>(pooled) == (config_.pooled_dim != 0), "pooled vector");
  const Tensor prediction = exec.empty(sample.dtype, {in[0], in[1], in[2], config_.out_channels});
  std::optional<ArenaScope> inference;
  if (!saved) inference.emplace(exec.arena);
  if (config_.center_input_sample) sample = center(exec, sample);
  if (saved) {
    const bool recompute = saved->recompute;
    *saved = Saved{.recompute = recompute};
    saved->sample = sample;
    saved->down.resize(down_.size(), {.recompute = recompute});
    saved->middle.resize(middle_.size(), {.recompute = recompute});
    saved->up.resize(up_.size(), {.recompute = recompute});
  }

  const Conditions conditions{
      embed(exec, weights, timesteps, pooled, sample.dtype, saved),
      {embed_text(exec, weights, text.tokens, saved), text.offsets, text.longest}};
  if (saved) saved->conditions = conditions;
  Tensor x;
  {
    const spans::Span span("conv_in", "block");
    x = conv_in_.forward(exec, weights, sample);
  }
  std::vector<Tensor> skips{x};
  for (std::size_t i = 0; i < down_.size(); ++i) {
    const spans::Span span("down_blocks", "block", i);
    x = down_[i].forward(exec, weights, x, conditions, skips, saved ? &saved->down[i] : nullptr);
  }
  for (std::size_t i = 0; i < middle_.size(); ++i) {
    const spans::Span span("mid_block", "block");
    if (saved) saved->middle_inputs.push_back(x);
    x = middle_[i].forward(exec, weights, x, conditions, saved ? &saved->middle[i] : nullptr);
  }
  for (std::size_t i = 0; i < up_.size(); ++i) {
    const spans::Span span("up_blocks", "block", i);
    x = up_[i].forward(exec, weights, x, conditions, skips, saved ? &saved->up[i] : nullptr);
  }
  const spans::Span span("conv_out", "block");
  const Tensor normed = norm_out_.forward(exec, weights, x, saved ? &saved->last_stats : nullptr);
  if (saved) {
    saved->last = x;
    saved->last_normed = normed;
  }
  return conv_out_.forward(exec, weights, normed, prediction);
}

void UNet::backward(Exec& exec, const Weights& weights, Gradients& gradients, const Saved& saved,
                    Tensor dprediction) const {
  const ArenaScope scope(exec.arena);
  const DType dtype = dprediction.dtype;
  Chain chain(exec, dtype, largest_between_stages(dprediction.shape));
  ConditionGradients dconditions{
      saved.conditions, exec.empty(DType::f32, saved.embedding.shape), {}};
  ops::fill(exec, dconditions.dtime, 0.0f);
  if (text_projection_) {
    dconditions.dtext = exec.empty(DType::f32, saved.conditions.text.rows.shape);
    ops::fill(exec, dconditions.dtext, 0.0f);
  }

  Tensor dx = chain.next(saved.last.shape);
  {
    const spans::Span span("conv_out", "block");
    const ArenaScope inner(exec.arena);
    const Tensor dnormed = exec.empty(dtype, saved.last_normed.shape);
    conv_out_.backward(exec, weights, gradients, dnormed, dprediction, saved.last_normed);
    norm_out_.backward(exec, weights, gradients, dx, dnormed, saved.last, saved.last_stats);
  }
  std::vector<Tensor> dskips;
  for (std::size_t i = up_.size(); i-- > 0;) {
    const spans::Span span("up_blocks", "block", i);
    dx = up_[i].backward(exec, weights, gradients, saved.up[i], chain, dconditions, dskips, dx);
  }
  for (std::size_t i = middle_.size(); i-- > 0;) {
    const spans::Span span("mid_block", "block");
    dx = middle_[i].backward(exec, weights, gradients, saved.middle[i], saved.middle_inputs[i],
                             chain, dconditions, dx);
  }
  for (std::size_t i = down_.size(); i-- > 0;) {
    const spans::Span span("down_blocks", "block", i);
    dx = down_[i].backward(exec, weights, gradients, saved.down[i], chain, dconditions, dskips, dx);
  }
  {
    const spans::Span span("conv_in", "block");
    ops::add(exec, dx, dx, dskips.back());
    conv_in_.backward(exec, weights, gradients, {}, dx, saved.sample);
  }
  backward_embeddings(exec, weights, gradients, saved, dconditions);
}

std::int64_t UNet::largest_between_stages(const Shape& sample) const {
  const auto& channels = config_.block_out_channels;
  std::int64_t largest = 0, height = sample[1], width = sample[2];
  for (int level = 0; level < config_.levels(); ++level) {
    const std::int64_t above = channels[std::max(level - 1, 0)];
    const std::int64_t below = channels[std::min(level + 1, config_.levels() - 1)];
    largest =
        std::max(largest, sample[0] * height * width * std::max({above, channels[level], below}));
    height = (height + 1) / 2;
    width = (width + 1) / 2;
  }
  return largest;
}

Flops UNet::flops(std::int64_t height, std::int64_t width, std::int64_t tokens) const {
  Flops flops;
  const auto text = static_cast<double>(tokens);
  time_embedding_.count(flops);
  if (config_.pooled_dim) pooled_embedding_.count(flops);
  if (text_projection_) text_projection_->count(flops, text, 1);
  conv_in_.count(flops, static_cast<double>(height * width), 1);
  std::vector<double> pixels;
  for (const auto& block : down_) {
    pixels.push_back(static_cast<double>(height * width));
    block.count(flops, height, width, text);
  }
  for (const auto& stage : middle_) stage.count(flops, pixels.back(), text);
  for (const auto& block : up_) {
    const double here = pixels.back();
    pixels.pop_back();
    block.count(flops, here, pixels.empty() ? 0 : pixels.back(), text);
    if (pixels.empty()) conv_out_.count(flops, here);
  }
  return flops;
}

double forward_flops(const UNetConfig& config, std::int64_t height, std::int64_t width,
                     std::int64_t tokens) {
  return UNet(config).flops(height, width, tokens).forward;
}

}  // namespace strata
