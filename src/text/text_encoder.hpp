#pragma once
// A frozen language model read as a text encoder: captions to token embeddings by one or more
// strategies, all out of one forward pass.

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/exec.hpp"
#include "model/text_model.hpp"
#include "text/batch_order.hpp"
#include "text/preset.hpp"
#include "text/strategy.hpp"
#include "text/tokenizer.hpp"

namespace strata {

class PaddedPasses;

struct EncodeOptions {
  std::vector<std::string> strategies{"last"};
  bool pooled = false;      // also one state a caption: TextModel::pool
  bool all_layers = false;  // also every hidden state
  AttentionMode attention = AttentionMode::automatic;
  std::size_t max_tokens = 0;  // 0: the default
  std::int64_t batch_tokens = strata::batch_tokens;
  /// Called by a streaming model, whose passes are long, when all captions have hidden state k.
  std::function<void(std::int64_t k)> after_state;
  /// Of the same exec, model and options: batches go through them where they hold them.
  PaddedPasses* padded = nullptr;
  /// The last of those batches may be under way when encode returns: what it returned holds its
  /// states after the next batch, or padded->finish().
  bool may_be_under_way = false;
};

/// n captions laid end to end, T tokens in all; a caption without ids owns an empty range.
struct Encoded {
  Buffer ids;                  // (T) i64
  Buffer offsets;              // (n+1) i64
  std::vector<Buffer> hidden;  // one a strategy: (T, D) f32
  Buffer pooled;               // (n, P) f32; zero rows for captions without ids
  Buffer layers;               // (L+1, T, D) f32
};

/// Token ids made anywhere, ids (T) and offsets (n+1), through a model: batch by batch, or all
/// batches layer by layer when it streams its weights. options.attention and max_tokens are the
/// caller's business.
Encoded encode_ids(Exec& exec, const TextModel& model, std::span<const std::int32_t> ids,
                   std::span<const std::int64_t> offsets, bool causal,
                   const EncodeOptions& options);

class TextEncoder {
 public:
  /// dir: the module's own folder, or a pipeline folder that holds `text_encoder/` and
  /// `tokenizer/`. compute: f32 or bf16. preset: as in find_preset. A folder that is not
  /// what the preset says is Error(65) when the preset was named; when the folder's name suggested
  /// it, it is a warning, and a preset of another config is left aside. streaming: as in
  /// TextModel::load.
  static TextEncoder load(Exec& exec, const std::string& dir, DType compute = DType::f32,
                          const std::string& preset = "auto", bool streaming = false);

  const TextConfig& config() const { return model_.config(); }
  std::int64_t width() const { return config().width; }
  std::int64_t pooled_width() const { return model_.pooled_width(); }
  /// What `asked` tokens (0: the default) come to. Error(64) when the model has fewer positions.
  std::size_t max_tokens(std::size_t asked) const;
  /// What `encode` feeds the model for a caption; max_tokens as in EncodeOptions.
  std::vector<std::int32_t> tokenize(const std::string& caption, std::size_t max_tokens) const;
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const TextModel& model() const { return model_; }

  /// Whether attention is causal under this mode (auto: the preset's, else config.json's own).
  bool is_causal(AttentionMode mode) const { return strata::is_causal(mode, preset_, config()); }

  /// A caption's rows are bitwise independent of its neighbours in the batch.
  Encoded encode(Exec& exec, std::span<const std::string> captions,
                 const EncodeOptions& options) const;
  /// The same for token ids made elsewhere: ids (T), offsets (n+1).
  Encoded encode_ids(Exec& exec, std::span<const std::int32_t> ids,
                     std::span<const std::int64_t> offsets, const EncodeOptions& options) const;

 private:
  TextEncoder(Tokenizer tokenizer, TextModel model);
  /// How the special tokens differ from the preset's; empty: they do not.
  std::string token_mismatch() const;

  Tokenizer tokenizer_;
  TextModel model_;
  std::optional<EncoderPreset> preset_;
};

}  // namespace strata
