#include <cmath>

#include "model/config_reader.hpp"
#include "model/decoder.hpp"

namespace strata {

namespace {

std::int64_t needed(const ConfigReader& config, const char* key, std::int64_t most) {
  if (!config.has(key)) config.refuse(key, "is missing");
  return config.integer(key, 0, 1, most);
}

double positive(const ConfigReader& config, const char* key, double otherwise) {
  const double value = config.number(key, otherwise);
  if (!(value > 0) || !std::isfinite(value)) config.refuse(key, "not a positive number");
  return value;
}

/// `rope_theta`, or `rope_parameters.rope_theta`; frequencies that are scaled are refused.
double read_rope_theta(const ConfigReader& config) {
  double theta = 0;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const ConfigReader rope = config.object(key);
    rope.require("rope_type", {"\"default\""});
    rope.require("type", {"\"default\""});
    rope.require("partial_rotary_factor", {"1.0"});
    if (rope.has("rope_theta")) theta = positive(rope, "rope_theta", 0);
  }
  if (config.has("rope_theta")) theta = positive(config, "rope_theta", 0);
  if (theta == 0) config.refuse("rope_theta", "neither it nor rope_parameters.rope_theta is there");
  return theta;
}

/// The tokens that attention may look back; 0 when there is no window.
std::int64_t read_window(const ConfigReader& config, const std::string& family) {
  if (family == "llama") return 0;
  if (family == "qwen2" && !config.boolean("use_sliding_window", false)) return 0;
  return config.integer("sliding_window", 0, 1, std::int64_t{1} << 30);
}

}  // namespace

DecoderConfig DecoderConfig::from_json_file(const std::string& path) {
  const ConfigReader config(path);
  constexpr std::int64_t most = std::int64_t{1} << 20;
  DecoderConfig read;
  if (!config.has("model_type")) config.refuse("model_type", "is missing");
  config.require("model_type", {"\"llama\"", "\"mistral\"", "\"qwen2\""});
  config.require("hidden_act", {"\"silu\""});
  if (config.has("quantization_config")) config.refuse("quantization_config", "not supported");

  read.model_type = config.text("model_type", "");
  read.vocabulary = needed(config, "vocab_size", std::int64_t{1} << 24);
  read.width = needed(config, "hidden_size", most);
  read.layers = needed(config, "num_hidden_layers", 1024);
  read.heads = needed(config, "num_attention_heads", 4096);
  read.kv_heads = config.integer("num_key_value_heads", read.heads, 1, 4096);
  read.feed_forward = needed(config, "intermediate_size", most);
  if (!config.has("head_dim") && read.width % read.heads != 0)
    config.refuse("num_attention_heads", "does not divide hidden_size");
  read.head_width = config.integer("head_dim", read.width / read.heads, 1, 1024);
  if (read.heads % read.kv_heads != 0)
    config.refuse("num_key_value_heads", "does not divide num_attention_heads");
  if (read.head_width % 2 != 0) config.refuse("head_dim", "odd, so it has no rotary pairs");

  read.norm_eps = static_cast<float>(positive(config, "rms_norm_eps", 1e-6));
  read.rope_theta = read_rope_theta(config);
  read.window = read_window(config, read.model_type);
  const bool bias = config.boolean("attention_bias", false);
  read.qkv_bias = bias || read.model_type == "qwen2";
  read.output_bias = bias;
  read.mlp_bias = config.boolean("mlp_bias", false);
  read.causal = config.boolean("is_causal", true);
  return read;
}

}  // namespace strata
