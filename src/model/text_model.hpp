#pragma once
// Text models read layer by layer, run forward over ragged captions. Llama, Mistral, Qwen2, Gemma2,
// T5's encoder and CLIP's text tower are one pre-norm transformer (Vaswani et al. 2017; Xiong et
// al. 2020) that TextConfig describes: norm and residual around attention, norm and residual around
// an MLP, one norm at the end.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/text_weights.hpp"

namespace strata {

/// n sequences laid end to end: ids (T) i64 and offsets (n+1) i64 on the host, T > 0.
struct TokenBatch {
  Tensor ids, offsets;
};

/// Texts whose tokens lie on exec's device and end before the last row: a pass over them reads
/// nothing of the host. R is a multiple of ops::packed_rows.
struct PaddedTokens {
  Tensor ids, positions;  // (R) i64, of rows behind the texts 0
  Tensor offsets;         // (B+1) i64
  std::int64_t longest;   // no text has more tokens
};

class TextModel {
 public:
  /// dir holds config.json and the weights (one file or shards). compute: f32 or bf16, into which
  /// the weights are cast once. Each matrix is in memory once, in the backend's layout; the
  /// embedding table stays in the mapped file. streaming: no layer stays in memory, `forward`
  /// reads each one from the files when its turn comes. Error(65) for a tensor that is missing, of
  /// another shape or unknown.
  static TextModel load(Exec& exec, const std::string& dir, DType compute, bool streaming = false);

  const TextConfig& config() const { return config_; }
  bool streaming() const { return streaming_; }
  DType compute() const { return compute_; }
  /// Width of the pooled state: of the text projection where the folder holds one.
  std::int64_t pooled_width() const;
  /// SHA-256 over the weight files, hex. Reads them.
  std::string weights_sha256() const { return weights_->sha256(); }

  /// Receives hidden state k (T, width) of the compute type, k = 0..layers in order: 0 is the
  /// embedding output (scaled, with learned positions), k the residual stream after layer k,
  /// `layers` after the final norm. Valid during the call only.
  using TakeState = std::function<void(std::int64_t k, Tensor state)>;

  /// As in TokenBatch. A token's states have the same bits whatever sequences come with its own.
  /// Error(65) for an id outside the vocabulary or a text longer than the model has positions for.
  void forward(Exec&, Tensor ids, Tensor offsets, bool causal, const TakeState&) const;

  /// Hidden state k of one of several batches; all batches give state k before any gives k+1.
  using TakeBatchState = std::function<void(std::size_t batch, std::int64_t k, Tensor state)>;
  /// The same states for several batches, layers outermost: a streaming model reads each layer
  /// once. The residual streams of all batches (T, width) are held meanwhile.
  void forward(Exec&, std::span<const TokenBatch>, bool causal, const TakeBatchState&) const;

  /// The states (R, width) of texts as they lie on the device, with the same bits.
  void forward(Exec&, const PaddedTokens&, bool causal, const TakeState&) const;

  /// (T) i64 on the host: where each token stands in its text. Error(65) for a text longer than the
  /// model has positions for.
  Buffer positions_of(const TokenBatch& texts) const;

  /// Fills o (T,heads,D) from q like it and k v (T,kv_heads,D) of one layer's pass, to whose q and
  /// k rotary positions are applied. Valid during the call only.
  using Attend = std::function<void(std::int64_t layer, Tensor o, Tensor q, Tensor k, Tensor v)>;
  /// T rows of whatever texts: ids and positions (T) i64 on the host, or in whole blocks on exec's
  /// device; what a row attends to is the caller's.
  struct Rows {
    Tensor ids, positions;
    Attend attend;
  };
  /// The pass that every use shares, layers outermost as above. block: see ops::linear.
  void run(Exec&, std::span<const Rows>, std::int64_t block, const TakeBatchState&) const;
  ops::AttentionParams attention_params(std::int64_t layer, bool causal) const;

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
  /// What every layer of one pass reads, and what it changes.
  struct Batch {
    const Rows& of;
    std::int64_t tokens, rows, block;  // rows: tokens rounded up to whole blocks
    Tensor residual;                   // (rows, width); rows past the tokens are nobody's
  };

  Norm read_norm(Exec&, const std::string& name) const;
  Linear read_linear(Exec&, const std::string& name, bool bias) const;
  Layer read_layer(Exec&, std::int64_t index) const;
  /// Its matrices are read next.
  void announce_layer(std::int64_t index) const;
  void read_positions(Exec&);

  Tensor embed(Exec&, const Batch&) const;
  void add_positions(Exec&, Tensor residual, const Batch&) const;
  void normalise(Exec&, Tensor y, Tensor x, const Norm&) const;
  void linear(Exec&, Tensor y, Tensor x, const Linear&, std::int64_t block) const;
  void attention_block(Exec&, const Layer&, std::int64_t index, const Batch&) const;
  std::int64_t mlp_rows(const Exec& exec, std::int64_t rows) const;
  void mlp_block(Exec&, const Layer&, Tensor residual, std::int64_t block) const;

  TextConfig config_;
  DType compute_ = DType::f32;
  bool streaming_ = false;
  std::unique_ptr<TextWeights> weights_;
  Tensor embedding_{};         // (vocabulary, width) in its stored type
  Buffer positions_;           // (positions, width): learned; absent: none
  Buffer inv_freq_;            // (head_width/2) f32: rotary; absent: none
  Buffer relative_;            // (heads, 2R+1) f32: relative bias by distance; absent: none
  std::vector<Layer> layers_;  // empty when streaming
  Norm final_norm_;
  Linear projection_;  // CLIP's; n = 0: none
};

}  // namespace strata
