#include "model/text_config.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/config_reader.hpp"

namespace strata {

namespace {

constexpr std::int64_t most_width = std::int64_t{1} << 20;
constexpr std::int64_t most_vocabulary = std::int64_t{1} << 24;
constexpr std::int64_t most_layers = 1024, most_heads = 4096, most_head_width = 1024;
constexpr std::int64_t most_positions = std::int64_t{1} << 30;

std::int64_t needed(const ConfigReader& config, const char* key, std::int64_t most) {
  if (!config.has(key)) config.refuse(key, "is missing");
  return config.integer(key, 0, 1, most);
}

double positive(const ConfigReader& config, const char* key, double otherwise) {
  const double value = config.number(key, otherwise);
  if (!(value > 0) || !std::isfinite(value)) config.refuse(key, "not a positive number");
  return value;
}

/// A cap that an absent key sets to `otherwise` and null switches off (0).
float read_softcap(const ConfigReader& config, const char* key, double otherwise) {
  if (config.is_null(key)) return 0;
  return static_cast<float>(positive(config, key, otherwise));
}

ops::Activation activation_named(const ConfigReader& config, const char* key,
                                 const std::string& name) {
  using ops::Activation;
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "relu") return Activation::relu;
  config.refuse(key,
                "not supported (supported: silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, "
                "relu)");
}

// --- rotary positions ---------------------------------------------------------------------------

/// `rope_parameters` (transformers 5) or `rope_scaling` (before): a kind, its factors, maybe theta.
void read_rope_object(const ConfigReader& rope, TextConfig& read) {
  std::string kind = rope.text("type", "default");
  kind = rope.text("rope_type", kind);
  rope.require("partial_rotary_factor", {"1.0"});
  if (rope.has("rope_theta")) read.rope_theta = positive(rope, "rope_theta", 0);
  if (kind == "default") return;
  if (kind != "llama3")
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type",
                "not supported (supported: \"default\", \"llama3\")");
  RopeScaling scaling;
  for (const auto& [key, value] :
       {std::pair{"factor", &scaling.factor},
        {"low_freq_factor", &scaling.low_frequency_factor},
        {"high_freq_factor", &scaling.high_frequency_factor},
        {"original_max_position_embeddings", &scaling.original_positions}}) {
    if (!rope.has(key)) rope.refuse(key, "is missing");
    *value = positive(rope, key, 0);
  }
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor)
    rope.refuse("high_freq_factor", "not above low_freq_factor");
  read.rope_scaling = scaling;
}

void read_rope(const ConfigReader& config, TextConfig& read) {
  config.require("partial_rotary_factor", {"1.0"});
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (config.has(key)) read_rope_object(config.object(key), read);
  if (config.has("rope_theta")) read.rope_theta = positive(config, "rope_theta", 0);
  if (read.rope_theta == 0)
    config.refuse("rope_theta", "neither it nor rope_parameters.rope_theta is there");
}

// --- windows ------------------------------------------------------------------------------------

/// `layer_types`, or `sliding(i)` of each layer where the list is absent. window: 0 when there is
/// none.
template <class F>
std::vector<std::int64_t> read_windows(const ConfigReader& config, std::int64_t layers,
                                       std::int64_t window, F sliding) {
  const auto types = config.strings("layer_types", {}, most_layers);
  if (!types.empty() && static_cast<std::int64_t>(types.size()) != layers)
    config.refuse("layer_types", fmt::format("needs {} entries", layers));
  std::vector<std::int64_t> windows;
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string type = !types.empty() ? types[static_cast<std::size_t>(i)]
                             : sliding(i)   ? "sliding_attention"
                                            : "full_attention";
    if (type != "sliding_attention" && type != "full_attention")
      config.refuse("layer_types", "an entry is neither full_attention nor sliding_attention");
    if (type == "sliding_attention" && window == 0)
      config.refuse(types.empty() ? "sliding_window" : "layer_types",
                    "layers slide, but there is no sliding_window");
    windows.push_back(type == "sliding_attention" ? window : 0);
  }
  return windows;
}

/// transformers' MistralModel slides in every layer or in none, whatever `layer_types` says.
std::vector<std::int64_t> read_uniform_windows(const ConfigReader& config, std::int64_t layers,
                                               std::int64_t window) {
  const auto windows =
      read_windows(config, layers, window, [&](std::int64_t) { return window > 0; });
  for (const std::int64_t own : windows)
    if (own != window) config.refuse("layer_types", "this family's layers are all alike");
  return windows;
}

std::int64_t read_window(const ConfigReader& config, std::int64_t otherwise) {
  if (config.is_null("sliding_window")) return 0;
  return config.integer("sliding_window", otherwise, 1, most_positions);
}

// --- families -----------------------------------------------------------------------------------

bool holds_class(const ConfigReader& config, std::string_view ending) {
  for (const std::string& name : config.strings("architectures", {}))
    if (name.ends_with(ending)) return true;
  return false;
}

/// What Llama, Mistral, Qwen2 and Gemma2 have in common.
void read_decoder(const ConfigReader& config, TextConfig& read) {
  read.vocabulary = needed(config, "vocab_size", most_vocabulary);
  read.width = needed(config, "hidden_size", most_width);
  read.layers = needed(config, "num_hidden_layers", most_layers);
  read.heads = needed(config, "num_attention_heads", most_heads);
  read.kv_heads = config.integer("num_key_value_heads", read.heads, 1, most_heads);
  read.feed_forward = needed(config, "intermediate_size", most_width);
  if (!config.has("head_dim") && read.width % read.heads != 0)
    config.refuse("num_attention_heads", "does not divide hidden_size");
  read.head_width = config.integer("head_dim", read.width / read.heads, 1, most_head_width);
  if (read.heads % read.kv_heads != 0)
    config.refuse("num_key_value_heads", "does not divide num_attention_heads");
  if (read.head_width % 2 != 0) config.refuse("head_dim", "odd, so it has no rotary pairs");
  read.attention_scale = 1.0f / std::sqrt(static_cast<float>(read.head_width));
  read.norm_eps = static_cast<float>(positive(config, "rms_norm_eps", 1e-6));
  read_rope(config, read);
  read.causal = config.boolean("is_causal", true);
  config.require("use_bidirectional_attention", {"false"});
  const bool bias = config.boolean("attention_bias", false);
  read.qkv_bias = bias || read.family == TextFamily::qwen2;
  read.output_bias = bias;
  read.tied_head = config.boolean("tie_word_embeddings", read.family == TextFamily::gemma2);
  read.separate_head = !read.tied_head && holds_class(config, "ForCausalLM");
}

void read_llama(const ConfigReader& config, TextConfig& read) {
  read_decoder(config, read);
  read.activation = activation_named(config, "hidden_act", config.text("hidden_act", "silu"));
  read.mlp_bias = config.boolean("mlp_bias", false);
  read.windows = read_uniform_windows(config, read.layers, 0);
}

void read_mistral(const ConfigReader& config, TextConfig& read) {
  if (!config.has("num_key_value_heads")) config.refuse("num_key_value_heads", "is missing");
  read_decoder(config, read);
  config.require("attention_bias", {"false"});
  read.activation = activation_named(config, "hidden_act", config.text("hidden_act", "silu"));
  read.windows = read_uniform_windows(config, read.layers, read_window(config, 4096));
}

void read_qwen2(const ConfigReader& config, TextConfig& read) {
  if (!config.has("num_key_value_heads")) config.refuse("num_key_value_heads", "is missing");
  config.require("use_mrope", {"false"});
  read_decoder(config, read);
  read.output_bias = false;
  read.activation = activation_named(config, "hidden_act", config.text("hidden_act", "silu"));
  const bool slides = config.boolean("use_sliding_window", false);
  const std::int64_t window = slides ? read_window(config, 4096) : 0;
  const std::int64_t first = config.integer("max_window_layers", 28, 0, most_layers);
  read.windows = read_windows(config, read.layers, window,
                              [&](std::int64_t i) { return window > 0 && i >= first; });
}

void read_gemma2(const ConfigReader& config, TextConfig& read) {
  for (const char* key : {"num_key_value_heads", "head_dim"})
    if (!config.has(key)) config.refuse(key, "is missing");
  read_decoder(config, read);
  const std::string usual = "gelu_pytorch_tanh";
  config.require("hidden_act", {"\"gelu_pytorch_tanh\""});
  read.activation =
      activation_named(config, "hidden_activation", config.text("hidden_activation", usual));
  read.norm = TextNorm::rms_one_plus_weight;
  read.post_norms = read.scaled_embedding = true;
  const double scalar = positive(config, "query_pre_attn_scalar", 256);
  read.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  read.attention_softcap = read_softcap(config, "attn_logit_softcapping", 50);
  read.final_softcap = read_softcap(config, "final_logit_softcapping", 30);
  read.windows = read_windows(config, read.layers, read_window(config, 4096),
                              [](std::int64_t i) { return i % 2 == 0; });
}

void read_t5(const ConfigReader& config, TextConfig& read) {
  config.require("is_decoder", {"false"});
  read.vocabulary = needed(config, "vocab_size", most_vocabulary);
  read.width = needed(config, "d_model", most_width);
  read.layers = needed(config, "num_layers", most_layers);
  read.heads = read.kv_heads = needed(config, "num_heads", most_heads);
  read.head_width = needed(config, "d_kv", most_head_width);
  read.feed_forward = needed(config, "d_ff", most_width);
  read.relative_buckets = config.integer("relative_attention_num_buckets", 32, 4, 4096);
  read.relative_distance = config.integer("relative_attention_max_distance", 128, 1, 65536);
  if (read.relative_buckets % 4 != 0)
    config.refuse("relative_attention_num_buckets", "not a multiple of 4");
  if (read.relative_distance <= read.relative_buckets / 4)
    config.refuse("relative_attention_max_distance", "not above a quarter of the buckets");
  read.norm_eps = static_cast<float>(positive(config, "layer_norm_epsilon", 1e-6));
  read.causal = false;
  read.windows.assign(static_cast<std::size_t>(read.layers), 0);

  const std::string kind = config.text("feed_forward_proj", "relu");
  read.gated = kind.starts_with("gated-");
  const std::string name = kind == "gated-gelu" ? "gelu_new" : kind.substr(read.gated ? 6 : 0);
  read.activation = activation_named(config, "feed_forward_proj", name);
  if (config.boolean("is_gated_act", read.gated) != read.gated)
    config.refuse("is_gated_act", "feed_forward_proj says otherwise");
  if (config.text("dense_act_fn", name) != name)
    config.refuse("dense_act_fn", "feed_forward_proj says otherwise");
}

/// config: of a CLIPTextModel, or the `text_config` of a whole CLIPModel. Absent keys have
/// transformers' defaults, because such files leave out what equals them.
void read_clip(const ConfigReader& config, TextConfig& read) {
  read.vocabulary = config.integer("vocab_size", 49408, 1, most_vocabulary);
  read.width = config.integer("hidden_size", 512, 1, most_width);
  read.layers = config.integer("num_hidden_layers", 12, 1, most_layers);
  read.heads = read.kv_heads = config.integer("num_attention_heads", 8, 1, most_heads);
  read.feed_forward = config.integer("intermediate_size", 2048, 1, most_width);
  read.positions = config.integer("max_position_embeddings", 77, 2, most_width);
  if (read.width % read.heads != 0)
    config.refuse("num_attention_heads", "does not divide hidden_size");
  read.head_width = read.width / read.heads;
  if (read.head_width > most_head_width) config.refuse("num_attention_heads", "heads too wide");
  read.attention_scale = 1.0f / std::sqrt(static_cast<float>(read.head_width));
  read.activation = activation_named(config, "hidden_act", config.text("hidden_act", "quick_gelu"));
  read.gated = false;
  read.norm = TextNorm::layer;
  read.norm_eps = static_cast<float>(positive(config, "layer_norm_eps", 1e-5));
  read.qkv_bias = read.output_bias = read.mlp_bias = true;
  read.windows.assign(static_cast<std::size_t>(read.layers), 0);
}

TextConfig read_family(const ConfigReader& config) {
  TextConfig read;
  read.model_type = config.text("model_type", "");
  const auto family = [&](TextFamily which, void (*reader)(const ConfigReader&, TextConfig&)) {
    read.family = which;
    reader(config, read);
    return read;
  };
  if (read.model_type == "llama") return family(TextFamily::llama, read_llama);
  if (read.model_type == "mistral") return family(TextFamily::mistral, read_mistral);
  if (read.model_type == "qwen2") return family(TextFamily::qwen2, read_qwen2);
  if (read.model_type == "gemma2") return family(TextFamily::gemma2, read_gemma2);
  if (read.model_type == "t5") return family(TextFamily::t5, read_t5);
  if (read.model_type == "clip_text_model") {
    family(TextFamily::clip, read_clip);
    if (holds_class(config, "WithProjection"))
      read.projection = config.integer("projection_dim", 512, 1, most_width);
    return read;
  }
  if (read.model_type == "clip") {
    if (!config.has("text_config")) config.refuse("text_config", "is missing");
    read.family = TextFamily::clip;
    read_clip(config.object("text_config"), read);
    read.projection = config.integer("projection_dim", 512, 1, most_width);
    return read;
  }
  config.refuse("model_type",
                "not supported (supported: llama, mistral, qwen2, gemma2, t5, clip_text_model, "
                "clip)");
}

}  // namespace

TextConfig TextConfig::from_json_file(const std::string& path) {
  const ConfigReader config(path);
  if (!config.has("model_type")) config.refuse("model_type", "is missing");
  if (config.has("quantization_config")) config.refuse("quantization_config", "not supported");
  return read_family(config);
}

std::vector<float> TextConfig::inverse_frequencies() const {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_width / 2; ++i) {  // in f32, as the reference computes it
    float frequency = 1.0f / std::pow(static_cast<float>(rope_theta),
                                      static_cast<float>(2 * i) / static_cast<float>(head_width));
    if (rope_scaling) {
      const RopeScaling& s = *rope_scaling;
      const double turns = s.original_positions * frequency / (2 * std::numbers::pi);
      const double kept = std::clamp(
          (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor),
          0.0, 1.0);
      frequency = static_cast<float>((1 - kept) * frequency / s.factor + kept * frequency);
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

std::int64_t TextConfig::relative_bucket(std::int64_t distance) const {
  const std::int64_t side = relative_buckets / 2, exact = side / 2;
  const std::int64_t first = distance > 0 ? side : 0, size = std::abs(distance);
  if (size < exact) return first + size;
  // In f32 and in this order, as the reference computes it: on powers of two the quotient is a
  // whole number, and its rounding decides.
  const float octaves = std::log(static_cast<float>(size) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(relative_distance) /
                                                    static_cast<double>(exact)));
  const auto step = static_cast<std::int64_t>(octaves * static_cast<float>(side - exact));
  return first + std::min(exact + step, side - 1);
}

}  // namespace strata
