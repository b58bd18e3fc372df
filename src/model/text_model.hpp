#pragma once
// Text models read layer by layer, run forward over ragged captions. Llama, Mistral, Qwen2, Gemma2,
// T5's encoder and CLIP's text tower are one pre-norm transformer (Vaswani et al. 2017; Xiong et
// al. 2020) that TextConfig describes: norm and residual around attention, norm and residual around
// an MLP, one norm at the end.

#include <functional>
#include <memory>

#include "model/text_weights.hpp"

namespace strata {

class TextModel {
 public:
  /// dir holds config.json and the weights (one file or shards). compute: f32 or bf16, into which
  /// the weights are cast once. Each matrix is in memory once, in the backend's layout; the
  /// embedding table stays in the mapped file. Error(65) for a tensor that is missing, of another
  /// shape or unknown.
  static TextModel load(Exec& exec, const std::string& dir, DType compute);

  const TextConfig& config() const { return config_; }
  DType compute() const { return compute_; }
  /// Width of the pooled state: of the text projection where the folder holds one.
  std::int64_t pooled_width() const;
  /// SHA-256 over the weight files, hex. Reads them.
  std::string weights_sha256() const { return weights_->sha256(); }

  /// Receives hidden state k (T, width) of the compute type, k = 0..layers in order: 0 is the
  /// embedding output (scaled, with learned positions), k the residual stream after layer k,
  /// `layers` after the final norm. Valid during the call only.
  using TakeState = std::function<void(std::int64_t k, Tensor state)>;

  /// Fills o (T,heads,D) from q like it and k v (T,kv_heads,D) of one layer's pass, to whose q and
  /// k rotary positions are applied. Valid during the call only.
  using Attend = std::function<void(std::int64_t layer, Tensor o, Tensor q, Tensor k, Tensor v)>;

  /// The pass that every use shares: T rows of whatever texts, ids and positions (T) i64 on the
  /// host, through all layers; what a row attends to is the caller's. block: see ops::linear.
  void run(Exec&, Tensor ids, Tensor positions, std::int64_t block, const Attend&,
           const TakeState&) const;
  ops::AttentionParams attention_params(std::int64_t layer, bool causal) const;

  /// ids (T) i64 and offsets (n+1) i64 on the host: n sequences laid end to end, T > 0 tokens. A
  /// token's states have the same bits whatever sequences come with its own. Error(65) for an id
  /// outside the vocabulary or a text longer than the model has positions for.
  void forward(Exec&, Tensor ids, Tensor offsets, bool causal, const TakeState&) const;

  /// (n, pooled_width) f32 on the device, from the state after the final norm (T, width): each
  /// sequence's last token; for CLIP its end of text (the first token that equals the last one),
  /// through the projection. Rows of sequences without tokens are 0.
  Tensor pool(Exec&, Tensor ids, Tensor offsets, Tensor last_state) const;

  /// The matrix (vocabulary, width) from the last state to the logits of the next token: lm_head,
  /// or the embedding where the two are tied. Error(65) for a model that cannot generate.
  ops::PackedWeight read_head(Exec&) const;

 private:
  struct Norm {
    Buffer weight, bias;  // (width); absent: no such norm, no bias
  };
  struct Linear {
    ops::PackedWeight weight;
    Buffer bias;  // absent: none
  };
  struct Layer {
    Norm attention_norm, post_attention_norm, mlp_norm, post_mlp_norm;
    Linear query, key, value, output, gate, up, down;
  };
  /// What every layer of one pass reads.
  struct Batch {
    Tensor ids, positions;             // (tokens)
    std::int64_t tokens, rows, block;  // rows: tokens rounded up to whole blocks
    const Attend& attend;
  };

  Norm read_norm(Exec&, const std::string& name) const;
  Linear read_linear(Exec&, const std::string& name, bool bias) const;
  Layer read_layer(Exec&, std::int64_t index) const;
  void read_positions(Exec&);

  Tensor embed(Exec&, const Batch&) const;
  void add_positions(Exec&, Tensor residual, const Batch&) const;
  void normalise(Exec&, Tensor y, Tensor x, const Norm&) const;
  void linear(Exec&, Tensor y, Tensor x, const Linear&, std::int64_t block) const;
  void attention_block(Exec&, std::int64_t layer, Tensor residual, const Batch&) const;
  void mlp_block(Exec&, std::int64_t layer, Tensor residual, std::int64_t block) const;

  TextConfig config_;
  DType compute_ = DType::f32;
  std::unique_ptr<TextWeights> weights_;
  Tensor embedding_{};  // (vocabulary, width) in its stored type
  Buffer positions_;    // (positions, width): learned; absent: none
  Buffer inv_freq_;     // (head_width/2) f32: rotary; absent: none
  Buffer relative_;     // (heads, 2R+1) f32: relative bias by distance; absent: none
  std::vector<Layer> layers_;
  Norm final_norm_;
  Linear projection_;  // CLIP's; n = 0: none
};

}  // namespace strata
