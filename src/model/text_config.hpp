#pragma once
// What a Hugging Face config.json says about a text model's forward pass. Six families share one
// pre-norm transformer and differ in the fields below; every key that changes the arithmetic is
// read here or refused by key and value.

#include <optional>
#include <string>
#include <vector>

#include "kernels/ops.hpp"

namespace strata {

enum class TextFamily { llama, mistral, qwen2, gemma2, t5, clip };

/// Llama 3.1's stretching of rotary frequencies (`rope_type` "llama3").
struct RopeScaling {
  double factor = 1, low_frequency_factor = 1, high_frequency_factor = 4;
  double original_positions = 8192;
};

enum class TextNorm {
  rms,                  // x / rms(x) * w
  rms_one_plus_weight,  // x / rms(x) * (1 + w)
  layer,                // LayerNorm with bias
};

struct TextConfig {
  TextFamily family = TextFamily::llama;
  std::string model_type;
  std::int64_t vocabulary = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_width = 0,
               feed_forward = 0;

  bool causal = true;  // unless the caller asks for the other
  float attention_scale = 1;
  float attention_softcap = 0;        // 0: none
  std::vector<std::int64_t> windows;  // one a layer: `sliding_window`, or 0 where all is seen

  // Positions: one of the three.
  double rope_theta = 0;
  std::optional<RopeScaling> rope_scaling;
  std::int64_t positions = 0;  // rows of a learned table, and so the longest text
  std::int64_t relative_buckets = 0, relative_distance = 0;

  TextNorm norm = TextNorm::rms;
  float norm_eps = 1e-6f;
  bool post_norms = false;        // also a norm after attention and MLP, before the residual sum
  bool scaled_embedding = false;  // by sqrt(width), rounded to the compute type

  ops::Activation activation = ops::Activation::silu;
  bool gated = true;  // down(act(gate x) * up x), else down(act(up x))
  bool qkv_bias = false, output_bias = false, mlp_bias = false;

  // What the published folder holds beside the encoder.
  bool separate_head = false;   // an lm_head that is not the embedding; only generation reads it
  bool tied_head = false;       // logits come from the embedding
  std::int64_t projection = 0;  // width of CLIP's text projection; 0: none
  float final_softcap = 0;      // on the logits of generation; 0: none

  /// Error(65) naming the key when a value is absent, out of range or asks for what is not
  /// supported.
  static TextConfig from_json_file(const std::string& path);

  /// theta^(-2i/D), stretched where the config says so (D/2); Su et al. 2021.
  std::vector<float> inverse_frequencies() const;
  /// The bucket of a key that stands `distance` positions behind the query (Raffel et al. 2020).
  std::int64_t relative_bucket(std::int64_t distance) const;
};

}  // namespace strata
