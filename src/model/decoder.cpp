#include "model/decoder.hpp"

#include <cmath>
#include <cstring>
#include <set>

#include "kernels/ops.hpp"

namespace strata {

/// Reads tensors by name, checks their shapes, casts them to the compute type on the device, and
/// knows in the end whether the folder holds more than was asked for.
class Decoder::Loader {
 public:
  Loader(Exec& exec, const SafetensorsFolder& folder, std::string dir, DType compute)
      : exec_(exec), folder_(folder), dir_(std::move(dir)), compute_(compute) {
    prefix_ = folder.contains("model.embed_tokens.weight") ? "model." : "";
  }

  Buffer read(const std::string& short_name, Shape shape) {
    const std::string name = prefix_ + short_name;
    const auto& stored = folder_.entry(name).shape;
    if (!std::equal(stored.begin(), stored.end(), shape.begin(), shape.end()))
      fail(Exit::data, "{}: tensor {}: its shape is not {}", dir_, name, to_string(shape));
    used_.insert(name);
    Buffer wide = folder_.read_f32(name);
    if (exec_.device() == host_device && compute_ == DType::f32) return wide;
    Buffer there(DType::f32, shape, exec_.device());
    memory::copy(there.tensor().data, exec_.device(), wide.tensor().data, host_device,
                 wide.tensor().bytes());
    if (compute_ == DType::f32) return there;
    Buffer narrow(compute_, shape, exec_.device());
    ops::cast(exec_, narrow, there);
    return narrow;
  }

  Projection read_projection(const std::string& name, std::int64_t out, std::int64_t in,
                             bool bias) {
    Projection projection;
    projection.weight = read(name + ".weight", {out, in});
    if (bias) projection.bias = read(name + ".bias", {out});
    return projection;
  }

  /// A tensor that the forward pass would leave out makes another model of it.
  void check_all_used() const {
    for (const std::string& name : folder_.names())
      if (!used_.contains(name) && !name.starts_with("lm_head.") &&
          !name.ends_with("rotary_emb.inv_freq"))
        fail(Exit::data, "{}: tensor {} is unknown in this family", dir_, name);
  }

 private:
  Exec& exec_;
  const SafetensorsFolder& folder_;
  std::string dir_, prefix_;
  DType compute_;
  std::set<std::string> used_;
};

Decoder Decoder::load(Exec& exec, const std::string& dir, DType compute) {
  STRATA_CHECK(compute == DType::f32 || compute == DType::bf16);
  Decoder decoder;
  decoder.dir_ = dir;
  decoder.compute_ = compute;
  decoder.config_ = DecoderConfig::from_json_file(dir + "/config.json");
  const DecoderConfig& c = decoder.config_;
  const SafetensorsFolder folder(dir, "model");
  Loader loader(exec, folder, dir, compute);

  decoder.embedding_ = loader.read("embed_tokens.weight", {c.vocabulary, c.width});
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string at = fmt::format("layers.{}.", i);
    const std::string attention = at + "self_attn.", mlp = at + "mlp.";
    const std::int64_t queries = c.heads * c.head_width, keys = c.kv_heads * c.head_width;
    Layer layer;
    layer.input_norm = loader.read(at + "input_layernorm.weight", {c.width});
    layer.query = loader.read_projection(attention + "q_proj", queries, c.width, c.qkv_bias);
    layer.key = loader.read_projection(attention + "k_proj", keys, c.width, c.qkv_bias);
    layer.value = loader.read_projection(attention + "v_proj", keys, c.width, c.qkv_bias);
    layer.output = loader.read_projection(attention + "o_proj", c.width, queries, c.output_bias);
    layer.post_norm = loader.read(at + "post_attention_layernorm.weight", {c.width});
    layer.gate = loader.read_projection(mlp + "gate_proj", c.feed_forward, c.width, c.mlp_bias);
    layer.up = loader.read_projection(mlp + "up_proj", c.feed_forward, c.width, c.mlp_bias);
    layer.down = loader.read_projection(mlp + "down_proj", c.width, c.feed_forward, c.mlp_bias);
    decoder.layers_.push_back(std::move(layer));
  }
  decoder.final_norm_ = loader.read("norm.weight", {c.width});
  loader.check_all_used();

  // theta^(-2i/D), Su et al. 2021, in f32 as the reference computes it.
  const Buffer frequencies(DType::f32, {c.head_width / 2});
  for (std::int64_t i = 0; i < c.head_width / 2; ++i)
    frequencies.as<float>()[i] =
        1.0f / std::pow(static_cast<float>(c.rope_theta),
                        static_cast<float>(2 * i) / static_cast<float>(c.head_width));
  decoder.inv_freq_ = Buffer(DType::f32, {c.head_width / 2}, exec.device());
  memory::copy(decoder.inv_freq_.tensor().data, exec.device(), frequencies.tensor().data,
               host_device, frequencies.tensor().bytes());
  return decoder;
}

std::string Decoder::weights_sha256() const {
  return SafetensorsFolder(dir_, "model").sha256();
}

/// y (rows,N) = x (rows,K) w^T + b, rows a multiple of token_block.
void Decoder::project(Exec& exec, Tensor y, Tensor x, const Projection& projection) {
  for (std::int64_t row = 0; row < x.shape[0]; row += token_block)
    ops::linear(exec, y.rows(row, row + token_block), x.rows(row, row + token_block),
                projection.weight, projection.bias);
}

void Decoder::attention_block(Exec& exec, const Layer& layer, Tensor residual, std::int64_t tokens,
                              Tensor offsets, bool causal) const {
  const ArenaScope scope(exec.arena);
  const std::int64_t rows = residual.shape[0], width = config_.width;
  const std::int64_t heads = config_.heads, kv_heads = config_.kv_heads, d = config_.head_width;
  const Tensor normed = exec.empty(compute_, {rows, width});
  const Tensor query = exec.empty(compute_, {rows, heads * d});
  const Tensor key = exec.empty(compute_, {rows, kv_heads * d});
  const Tensor value = exec.empty(compute_, {rows, kv_heads * d});
  const Tensor attended = exec.empty(compute_, {rows, heads * d});
  ops::rms_norm(exec, normed, residual, layer.input_norm, config_.norm_eps);
  project(exec, query, normed, layer.query);
  project(exec, key, normed, layer.key);
  project(exec, value, normed, layer.value);

  const auto by_head = [&](Tensor x, std::int64_t n) {
    return x.rows(0, tokens).reshape({tokens, n, d});
  };
  ops::rope(exec, by_head(query, heads), offsets, inv_freq_);
  ops::rope(exec, by_head(key, kv_heads), offsets, inv_freq_);
  const ops::AttentionParams params{1.0f / std::sqrt(static_cast<float>(d)), causal};
  ops::attention(exec, by_head(attended, heads), {}, by_head(query, heads), by_head(key, kv_heads),
                 by_head(value, kv_heads), offsets, offsets, params);
  if (tokens < rows) ops::fill(exec, attended.rows(tokens, rows), 0.0f);
  project(exec, normed, attended, layer.output);
  ops::add(exec, residual, residual, normed);
}

void Decoder::mlp_block(Exec& exec, const Layer& layer, Tensor residual) const {
  const ArenaScope scope(exec.arena);
  const std::int64_t rows = residual.shape[0];
  const Tensor normed = exec.empty(compute_, {rows, config_.width});
  const Tensor gate = exec.empty(compute_, {rows, config_.feed_forward});
  const Tensor up = exec.empty(compute_, {rows, config_.feed_forward});
  ops::rms_norm(exec, normed, residual, layer.post_norm, config_.norm_eps);
  project(exec, gate, normed, layer.gate);
  project(exec, up, normed, layer.up);
  ops::gated(exec, gate, gate, up, ops::Activation::silu);
  project(exec, normed, gate, layer.down);
  ops::add(exec, residual, residual, normed);
}

void Decoder::forward(Exec& exec, Tensor ids, Tensor offsets, bool causal,
                      const std::function<void(std::int64_t, Tensor)>& state) const {
  const std::int64_t tokens = ids.numel();
  STRATA_CHECK(tokens > 0 && offsets.as<std::int64_t>()[offsets.numel() - 1] == tokens);
  for (std::int64_t i = 0; config_.window > 0 && i + 1 < offsets.numel(); ++i) {
    const auto* at = offsets.as<std::int64_t>();
    if (at[i + 1] - at[i] > config_.window)
      fail(Exit::data,
           "{}: a text of {} tokens is longer than the sliding window of {}, which is "
           "not supported",
           dir_, at[i + 1] - at[i], config_.window);
  }
  const ArenaScope scope(exec.arena);
  const std::int64_t rows = (tokens + token_block - 1) / token_block * token_block;
  const Buffer padded = Buffer::zeros(DType::i64, {rows});
  std::memcpy(padded.tensor().data, ids.data, ids.bytes());
  const Tensor residual = exec.empty(compute_, {rows, config_.width});
  ops::embedding(exec, residual, embedding_, padded);
  state(0, residual.rows(0, tokens));
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    attention_block(exec, layers_[i], residual, tokens, offsets, causal);
    mlp_block(exec, layers_[i], residual);
    if (i + 1 < config_.layers) state(i + 1, residual.rows(0, tokens));
  }
  const Tensor normed = exec.empty(compute_, {tokens, config_.width});
  ops::rms_norm(exec, normed, residual.rows(0, tokens), final_norm_, config_.norm_eps);
  state(config_.layers, normed);
}

}  // namespace strata
