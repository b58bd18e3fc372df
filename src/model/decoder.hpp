#pragma once
// Decoder-only language models in Llama's layout, run forward over ragged captions: pre-norm blocks
// of grouped-query attention (Ainslie et al. 2023) with rotary positions (Su et al. 2021) and a
// gated MLP (Touvron et al. 2023).

#include <functional>
#include <string>
#include <vector>

#include "core/exec.hpp"
#include "core/safetensors.hpp"

namespace strata {

/// The part of a Hugging Face config.json that the forward pass needs.
struct DecoderConfig {
  std::string model_type;  // llama, mistral, qwen2
  std::int64_t vocabulary = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_width = 0,
               feed_forward = 0;
  std::int64_t window = 0;  // tokens that attention may look back; 0: all
  float norm_eps = 1e-6f;
  double rope_theta = 0;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool causal = true;

  /// Error(65) naming the key when a value is absent, out of range or asks for what is not
  /// supported.
  static DecoderConfig from_json_file(const std::string& path);
};

class Decoder {
 public:
  /// Every linear layer runs on blocks of so many rows, the last one padded: one kernel for every
  /// call, so that a caption's bits do not depend on its neighbours.
  static constexpr std::int64_t token_block = 128;

  /// dir holds config.json and the weights, with the prefix `model.` or none; lm_head is not read.
  /// compute: f32 or bf16, into which the weights are cast once. Error(65) for a tensor that is
  /// missing, of another shape or unknown.
  static Decoder load(Exec& exec, const std::string& dir, DType compute);

  const DecoderConfig& config() const { return config_; }
  DType compute() const { return compute_; }
  /// SHA-256 over the weight files, hex. Reads them.
  std::string weights_sha256() const;

  /// ids (T) i64 and offsets (n+1) i64 on the host: n sequences laid end to end, T > 0 tokens.
  /// Calls state(k, hidden (T, width) of the compute type) for k = 0..layers in order: 0 is the
  /// embedding output, k the residual stream after block k, `layers` after the final norm. The
  /// tensor is only valid during the call.
  void forward(Exec& exec, Tensor ids, Tensor offsets, bool causal,
               const std::function<void(std::int64_t, Tensor)>& state) const;

 private:
  class Loader;
  struct Projection {
    Buffer weight, bias;  // (N,K), (N) or absent
  };
  struct Layer {
    Buffer input_norm, post_norm;  // (width)
    Projection query, key, value, output, gate, up, down;
  };
  static void project(Exec& exec, Tensor y, Tensor x, const Projection& projection);
  void attention_block(Exec& exec, const Layer& layer, Tensor residual, std::int64_t tokens,
                       Tensor offsets, bool causal) const;
  void mlp_block(Exec& exec, const Layer& layer, Tensor residual) const;

  DecoderConfig config_;
  DType compute_ = DType::f32;
  std::string dir_;
  Buffer embedding_, final_norm_, inv_freq_;
  std::vector<Layer> layers_;
};

}  // namespace strata
