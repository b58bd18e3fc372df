#include "model/vae_parts.hpp"

#include <algorithm>

namespace strata {

namespace {

constexpr float norm_eps = 1e-6f;
constexpr ops::Conv2dParams same_size{};
/// The encoder pads below and to the right only.
constexpr ops::Conv2dParams half_size{
    .stride = 2, .pad_top = 0, .pad_left = 0, .pad_bottom = 1, .pad_right = 1};

ResBlock make_resblock(ParameterTable& table, const std::string& name, std::int64_t in,
                       std::int64_t out, const VaeConfig& config) {
  return {table, name, {in, out, 0, config.norm_num_groups, norm_eps}};
}

/// Elements of the largest tensor between two blocks of a batch whose finest level is
/// height x width.
template <class Level>
std::int64_t largest_between_blocks(const std::vector<Level>& finest_first, std::int64_t batch,
                                    std::int64_t height, std::int64_t width) {
  std::int64_t largest = 0, finer = 0;
  for (std::size_t i = 0; i < finest_first.size(); ++i) {
    const std::int64_t here = finest_first[i].resblocks.back().out();
    const std::int64_t coarser =
        finest_first[std::min(i + 1, finest_first.size() - 1)].resblocks.back().out();
    largest = std::max(largest, batch * height * width * std::max({finer, here, coarser}));
    height /= 2;
    width /= 2;
    finer = here;
  }
  return largest;
}

}  // namespace

// --- VaeMiddle ----------------------------------------------------------------------------------

VaeMiddle::VaeMiddle(ParameterTable& table, const std::string& name, const VaeConfig& config) {
  const std::int64_t channels = config.block_out_channels.back();
  for (int i = 0; i < 2; ++i)
    resblocks_.push_back(
        make_resblock(table, fmt::format("{}.resnets.{}", name, i), channels, channels, config));
  if (!config.mid_attention) return;
  const std::string attention = name + ".attentions.0";
  norm_.emplace(table, attention + ".group_norm", channels, config.norm_num_groups, norm_eps);
  const Attention::Names old{"query", "key", "value", "proj_attn"};
  attention_ = Attention(table, attention,
                         {.width = channels,
                          .context = channels,
                          .heads = 1,
                          .qkv_bias = true,
                          .names = config.old_attention_names ? old : Attention::Names{}});
}

Tensor VaeMiddle::forward(Exec& exec, const Weights& weights, Tensor x, Chain& chain) const {
  x = resblocks_[0].forward(exec, weights, x, {}, nullptr, chain.next(x.shape));
  if (norm_) x = attend(exec, weights, x, chain.next(x.shape));
  return resblocks_[1].forward(exec, weights, x, {}, nullptr, chain.next(x.shape));
}

Tensor VaeMiddle::attend(Exec& exec, const Weights& weights, Tensor x, Tensor y) const {
  const ArenaScope scope(exec.arena);
  const std::int64_t batch = x.shape[0], pixels = x.shape[1] * x.shape[2];
  std::vector<std::int64_t> offsets;
  for (std::int64_t b = 0; b <= batch; ++b) offsets.push_back(b * pixels);
  const Shape rows{batch * pixels, x.shape[3]};
  const Ragged normed{norm_->forward(exec, weights, x, nullptr).reshape(rows),
                      view_of(offsets.data(), {batch + 1})};
  attention_.forward(exec, weights, normed, normed, nullptr, y.reshape(rows));
  ops::add(exec, y, y, x);
  return y;
}

// --- VaeEncoder ---------------------------------------------------------------------------------

VaeEncoder::VaeEncoder(ParameterTable& table, const VaeConfig& config) {
  const auto& channels = config.block_out_channels;
  conv_in_ = Conv2d(table, "encoder.conv_in", config.image_channels, channels[0], 3, same_size);
  std::int64_t in = channels[0];
  for (int i = 0; i < config.levels(); ++i) {
    const std::string name = fmt::format("encoder.down_blocks.{}", i);
    Level& level = levels_.emplace_back();
    for (std::int64_t j = 0; j < config.layers_per_block; ++j) {
      level.resblocks.push_back(
          make_resblock(table, fmt::format("{}.resnets.{}", name, j), in, channels[i], config));
      in = channels[i];
    }
    if (i + 1 < config.levels())
      level.downsampler.emplace(table, name + ".downsamplers.0.conv", in, in, 3, half_size);
  }
  middle_.emplace(table, "encoder.mid_block", config);
  norm_out_ = GroupNorm(table, "encoder.conv_norm_out", in, config.norm_num_groups, norm_eps,
                        ops::Activation::silu);
  const std::int64_t moments = 2 * config.latent_channels;
  conv_out_ = Conv2d(table, "encoder.conv_out", in, moments, 3, same_size);
  if (config.quant_conv)
    quant_.emplace(table, "quant_conv", moments, moments, true, MatrixShape::conv_1x1);
}

Tensor VaeEncoder::forward(Exec& exec, const Weights& weights, Tensor image) const {
  Chain chain(exec, image.dtype,
              largest_between_blocks(levels_, image.shape[0], image.shape[1], image.shape[2]));
  Tensor x = conv_in_.forward(exec, weights, image, chain.next(conv_in_.output_shape(image.shape)));
  for (const auto& level : levels_) {
    for (const auto& resblock : level.resblocks) {
      const Shape shape{x.shape[0], x.shape[1], x.shape[2], resblock.out()};
      x = resblock.forward(exec, weights, x, {}, nullptr, chain.next(shape));
    }
    if (level.downsampler)
      x = level.downsampler->forward(exec, weights, x,
                                     chain.next(level.downsampler->output_shape(x.shape)));
  }
  x = middle_->forward(exec, weights, x, chain);
  x = conv_out_.forward(exec, weights, norm_out_.forward(exec, weights, x, nullptr));
  return quant_ ? quant_->forward(exec, weights, x) : x;
}

// --- VaeDecoder ---------------------------------------------------------------------------------

VaeDecoder::VaeDecoder(ParameterTable& table, const VaeConfig& config) {
  const auto& channels = config.block_out_channels;
  const std::int64_t latent = config.latent_channels;
  if (config.post_quant_conv)
    post_quant_.emplace(table, "post_quant_conv", latent, latent, true, MatrixShape::conv_1x1);
  conv_in_ = Conv2d(table, "decoder.conv_in", latent, channels.back(), 3, same_size);
  middle_.emplace(table, "decoder.mid_block", config);
  std::int64_t in = channels.back();
  for (int i = 0; i < config.levels(); ++i) {
    const std::string name = fmt::format("decoder.up_blocks.{}", i);
    const std::int64_t out = channels[config.levels() - 1 - i];
    Level& level = *levels_.emplace(levels_.begin());
    for (std::int64_t j = 0; j <= config.layers_per_block; ++j) {
      level.resblocks.push_back(
          make_resblock(table, fmt::format("{}.resnets.{}", name, j), in, out, config));
      in = out;
    }
    if (i + 1 < config.levels())
      level.upsampler.emplace(table, name + ".upsamplers.0.conv", in, in, 3, same_size);
  }
  norm_out_ = GroupNorm(table, "decoder.conv_norm_out", in, config.norm_num_groups, norm_eps,
                        ops::Activation::silu);
  conv_out_ = Conv2d(table, "decoder.conv_out", in, config.image_channels, 3, same_size);
}

Tensor VaeDecoder::forward(Exec& exec, const Weights& weights, Tensor latent) const {
  const std::size_t doublings = levels_.size() - 1;
  Chain chain(exec, latent.dtype,
              largest_between_blocks(levels_, latent.shape[0], latent.shape[1] << doublings,
                                     latent.shape[2] << doublings));
  Tensor x = post_quant_ ? post_quant_->forward(exec, weights, latent) : latent;
  x = conv_in_.forward(exec, weights, x, chain.next(conv_in_.output_shape(x.shape)));
  x = middle_->forward(exec, weights, x, chain);
  for (std::size_t i = levels_.size(); i-- > 0;) {
    const Level& level = levels_[i];
    for (const auto& resblock : level.resblocks) {
      const Shape shape{x.shape[0], x.shape[1], x.shape[2], resblock.out()};
      x = resblock.forward(exec, weights, x, {}, nullptr, chain.next(shape));
    }
    if (!level.upsampler) continue;
    const ArenaScope scope(exec.arena);
    const Tensor upsampled =
        exec.empty(x.dtype, {x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]});
    ops::upsample_nearest(exec, upsampled, x);
    x = level.upsampler->forward(exec, weights, upsampled, chain.next(upsampled.shape));
  }
  return conv_out_.forward(exec, weights, norm_out_.forward(exec, weights, x, nullptr));
}

}  // namespace strata
