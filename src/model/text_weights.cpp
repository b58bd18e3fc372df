#include "model/text_weights.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/error.hpp"
#include "core/read_ahead.hpp"

namespace strata {

// --- names --------------------------------------------------------------------------------------

namespace {

constexpr const char* projection_name = "text_projection.weight";
constexpr const char* shared_name = "shared.weight";
constexpr const char* head_name = "lm_head.weight";

TextLayerNames decoder_names(const std::string& at, bool post_norms) {
  const std::string attention = at + "self_attn.", mlp = at + "mlp.";
  TextLayerNames names;
  names.attention_norm = at + "input_layernorm";
  names.query = attention + "q_proj";
  names.key = attention + "k_proj";
  names.value = attention + "v_proj";
  names.output = attention + "o_proj";
  names.mlp_norm = at + (post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm");
  names.gate = mlp + "gate_proj";
  names.up = mlp + "up_proj";
  names.down = mlp + "down_proj";
  if (post_norms) {
    names.post_attention_norm = at + "post_attention_layernorm";
    names.post_mlp_norm = at + "post_feedforward_layernorm";
  }
  return names;
}

TextLayerNames t5_names(const std::string& at, bool gated) {
  const std::string attention = at + "layer.0.SelfAttention.", mlp = at + "layer.1.DenseReluDense.";
  TextLayerNames names;
  names.attention_norm = at + "layer.0.layer_norm";
  names.query = attention + "q";
  names.key = attention + "k";
  names.value = attention + "v";
  names.output = attention + "o";
  names.mlp_norm = at + "layer.1.layer_norm";
  names.gate = gated ? mlp + "wi_0" : "";
  names.up = mlp + (gated ? "wi_1" : "wi");
  names.down = mlp + "wo";
  return names;
}

TextLayerNames clip_names(const std::string& at) {
  const std::string attention = at + "self_attn.", mlp = at + "mlp.";
  TextLayerNames names;
  names.attention_norm = at + "layer_norm1";
  names.query = attention + "q_proj";
  names.key = attention + "k_proj";
  names.value = attention + "v_proj";
  names.output = attention + "out_proj";
  names.mlp_norm = at + "layer_norm2";
  names.up = mlp + "fc1";
  names.down = mlp + "fc2";
  return names;
}

}  // namespace

TextNames text_names(const TextConfig& c) {
  if (c.family == TextFamily::t5)
    return {"embed_tokens", "", "block.0.layer.0.SelfAttention.relative_attention_bias",
            "final_layer_norm"};
  if (c.family == TextFamily::clip)
    return {"embeddings.token_embedding", "embeddings.position_embedding", "", "final_layer_norm"};
  return {"embed_tokens", "", "", "norm"};
}

TextLayerNames text_layer_names(const TextConfig& c, std::int64_t layer) {
  if (c.family == TextFamily::t5) return t5_names(fmt::format("block.{}.", layer), c.gated);
  if (c.family == TextFamily::clip) return clip_names(fmt::format("encoder.layers.{}.", layer));
  return decoder_names(fmt::format("layers.{}.", layer), c.post_norms);
}

std::map<std::string, Shape> text_tensors(const TextConfig& c) {
  std::map<std::string, Shape> all;
  const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    if (name.empty()) return;
    all[name + ".weight"] = {out, in};
    if (bias) all[name + ".bias"] = {out};
  };
  const auto norm = [&](const std::string& name) {
    if (name.empty()) return;
    all[name + ".weight"] = {c.width};
    if (c.norm == TextNorm::layer) all[name + ".bias"] = {c.width};
  };
  const TextNames names = text_names(c);
  matrix(names.embedding, c.vocabulary, c.width, false);
  matrix(names.positions, c.positions, c.width, false);
  matrix(names.relative_bias, c.relative_buckets, c.heads, false);
  norm(names.final_norm);
  const std::int64_t queries = c.heads * c.head_width, keys = c.kv_heads * c.head_width;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const TextLayerNames layer = text_layer_names(c, i);
    for (const auto* name :
         {&layer.attention_norm, &layer.post_attention_norm, &layer.mlp_norm, &layer.post_mlp_norm})
      norm(*name);
    matrix(layer.query, queries, c.width, c.qkv_bias);
    matrix(layer.key, keys, c.width, c.qkv_bias);
    matrix(layer.value, keys, c.width, c.qkv_bias);
    matrix(layer.output, c.width, queries, c.output_bias);
    matrix(layer.gate, c.feed_forward, c.width, c.mlp_bias);
    matrix(layer.up, c.feed_forward, c.width, c.mlp_bias);
    matrix(layer.down, c.width, c.feed_forward, c.mlp_bias);
  }
  return all;
}

std::int64_t parameter_count(const TextConfig& c) {
  std::int64_t count = c.projection * c.width;
  for (const auto& [name, shape] : text_tensors(c)) count += shape.numel();
  return count;
}

std::int64_t published_parameter_count(const TextConfig& c) {
  return parameter_count(c) + (c.separate_head ? c.vocabulary * c.width : 0);
}

// --- the folder ---------------------------------------------------------------------------------

namespace {

std::string prefix_of(const SafetensorsFolder& folder, const TextConfig& config) {
  const std::string last = text_names(config).final_norm + ".weight";
  for (const char* prefix : {"model.", "text_model.", "encoder."})
    if (folder.contains(prefix + last)) return prefix;
  return "";
}

/// Whether published folders of the family hold this beside what the encoder computes with.
bool is_surplus(TextFamily family, const std::string& name) {
  const auto begins = [&](auto... with) { return (name.starts_with(with) || ...); };
  if (family == TextFamily::t5) return begins("decoder.", "lm_head.", "encoder.embed_tokens.");
  if (family == TextFamily::clip)
    return begins("vision_model.", "visual_projection.", "logit_scale", projection_name) ||
           name.ends_with("embeddings.position_ids");
  return begins("lm_head.") || name.ends_with("rotary_emb.inv_freq");
}

/// Calls use(view) with a tensor of the file, copied if the file did not align it to its type.
template <class F>
void with_view(const SafetensorsFolder& folder, const std::string& name, F use) {
  const Tensor view = folder.view(name);
  if (reinterpret_cast<std::uintptr_t>(view.data) % size_of(view.dtype) == 0) return use(view);
  const Buffer aligned(view.dtype, view.shape);
  std::memcpy(aligned.tensor().data, view.data, view.bytes());
  use(aligned);
}

Buffer copy_to(Exec& exec, Tensor host) {
  Buffer copy(host.dtype, host.shape, exec.device());
  memory::copy(copy.tensor().data, exec.device(), host.data, host_device, host.bytes());
  return copy;
}

/// Calls use(tensor) with a stored tensor in the compute type on the device. Its pages leave this
/// process afterwards: what use made of it is what stays in memory.
template <class F>
void with_tensor(Exec& exec, const SafetensorsFolder& folder, const std::string& name,
                 DType compute, F use) {
  with_view(folder, name, [&](Tensor stored) {
    Buffer there;
    if (exec.device() != host_device) {
      there = copy_to(exec, stored);
      stored = there;
    }
    if (stored.dtype == compute) return use(stored);
    const Buffer converted(compute, stored.shape, exec.device());
    ops::cast(exec, converted, stored);
    use(converted);
  });
  folder.let_go(name);
}

}  // namespace

TextWeights::TextWeights(const std::string& dir, const TextConfig& config)
    : folder_(dir, "model"), prefix_(prefix_of(folder_, config)) {
  shared_embedding_ = config.family == TextFamily::t5 && folder_.contains(shared_name);
  check(config);
}

std::string TextWeights::full(const std::string& name) const {
  if (name == projection_name || name == head_name) return name;
  if (shared_embedding_ && name == "embed_tokens.weight") return shared_name;
  return prefix_ + name;
}

void TextWeights::check(const TextConfig& config) const {
  std::set<std::string> used;
  auto tensors = text_tensors(config);
  if (config.projection > 0) tensors[projection_name] = {config.projection, config.width};
  for (const auto& [name, shape] : tensors) {
    const std::string stored_name = full(name);
    const auto& stored = folder_.entry(stored_name).shape;
    if (!std::equal(stored.begin(), stored.end(), shape.begin(), shape.end()))
      fail(Exit::data, "{}: tensor {}: its shape is ({}), config.json says {}", folder_.path(),
           stored_name, fmt::join(stored, ", "), to_string(shape));
    used.insert(stored_name);
  }
  for (const std::string& name : folder_.names())
    if (!used.contains(name) && !is_surplus(config.family, name))
      fail(Exit::data, "{}: tensor {} is unknown in this family", folder_.path(), name);
  if (config.family == TextFamily::clip && folder_.contains(projection_name)) {
    const auto& stored = folder_.entry(projection_name).shape;
    if (stored.size() != 2 || stored[0] < 1 || stored[1] != config.width)
      fail(Exit::data, "{}: tensor {}: its shape is ({}), wanted (P, {})", folder_.path(),
           projection_name, fmt::join(stored, ", "), config.width);
  }
}

Buffer TextWeights::read(Exec& exec, const std::string& name, DType compute) const {
  Buffer result;
  with_tensor(exec, folder_, full(name), compute, [&](Tensor tensor) {
    result = Buffer(compute, tensor.shape, exec.device());
    memory::copy(result.tensor().data, exec.device(), tensor.data, exec.device(), tensor.bytes());
  });
  return result;
}

ops::PackedWeight TextWeights::pack(Exec& exec, const std::string& name, DType compute) const {
  ops::PackedWeight packed;
  with_tensor(exec, folder_, full(name), compute,
              [&](Tensor tensor) { packed = ops::pack(exec, tensor); });
  return packed;
}

ops::PackedWeight TextWeights::pack_head(Exec& exec, const TextConfig& config,
                                         DType compute) const {
  if (config.family == TextFamily::t5 || config.family == TextFamily::clip)
    fail(Exit::data, "{}: a {} encoder cannot generate text", folder_.path(), config.model_type);
  if (config.tied_head) return pack(exec, text_names(config).embedding + ".weight", compute);
  if (!folder_.contains(head_name))
    fail(
        Exit::data,
        "{}: cannot generate text: there is no {}, and tie_word_embeddings of config.json is false",
        folder_.path(), head_name);
  const auto& stored = folder_.entry(head_name).shape;
  if (stored != std::vector<std::int64_t>{config.vocabulary, config.width})
    fail(Exit::data, "{}: tensor {}: its shape is ({}), config.json says ({}, {})", folder_.path(),
         head_name, fmt::join(stored, ", "), config.vocabulary, config.width);
  return pack(exec, head_name, compute);
}

void TextWeights::will_need(const std::string& name) const {
  const Tensor view = folder_.view(full(name));
  read_ahead(view.data, view.bytes());
}

Tensor TextWeights::stored(Exec& exec, const std::string& name) {
  const Tensor view = folder_.view(full(name));
  if (exec.device() == host_device &&
      reinterpret_cast<std::uintptr_t>(view.data) % size_of(view.dtype) == 0)
    return view;
  return copies_.insert_or_assign(name, copy_to(exec, view)).first->second;
}

std::int64_t TextWeights::projection_width() const {
  return folder_.contains(projection_name) ? folder_.entry(projection_name).shape[0] : 0;
}

}  // namespace strata
