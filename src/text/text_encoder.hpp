#pragma once
// A frozen language model read as a text encoder: captions to token embeddings by one or more
// strategies, all out of one forward pass.

#include <span>
#include <string>
#include <vector>

#include "core/exec.hpp"
#include "model/decoder.hpp"
#include "text/strategy.hpp"
#include "text/tokenizer.hpp"

namespace strata {

enum class AttentionMode { automatic, causal, bidirectional };
/// "auto", "causal", "bidirectional"; anything else is Error(64).
AttentionMode parse_attention(const std::string& text);

/// Where nothing else is said: special tokens stay, the caption's own ids are cut at the end.
inline constexpr std::size_t default_max_tokens = 256;

struct EncodeOptions {
  std::vector<std::string> strategies{"last"};
  bool pooled = false;      // also the last token's state after the final norm
  bool all_layers = false;  // also every hidden state
  AttentionMode attention = AttentionMode::automatic;
  std::size_t max_tokens = 0;  // 0: default_max_tokens
};

/// n captions laid end to end, T tokens in all; a caption without ids owns an empty range.
struct Encoded {
  Buffer ids;                  // (T) i64
  Buffer offsets;              // (n+1) i64
  std::vector<Buffer> hidden;  // one a strategy: (T, D) f32
  Buffer pooled;               // (n, D) f32; zero rows for captions without ids
  Buffer layers;               // (L+1, T, D) f32
};

/// The end of the batch of captions that begins at `first`: as many as fit one forward pass, at
/// least one. offsets (n+1) as in Encoded.
std::int64_t end_of_batch(std::span<const std::int64_t> offsets, std::int64_t first);

class TextEncoder {
 public:
  /// dir: the module's own folder, or a pipeline folder that holds `text_encoder/` and
  /// `tokenizer/`. compute: f32 or bf16.
  static TextEncoder load(Exec& exec, const std::string& dir, DType compute = DType::f32);

  const DecoderConfig& config() const { return decoder_.config(); }
  std::int64_t width() const { return decoder_.config().width; }
  /// What `encode` feeds the model for a caption; max_tokens as in EncodeOptions.
  std::vector<std::int32_t> tokenize(const std::string& caption, std::size_t max_tokens) const;
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Decoder& decoder() const { return decoder_; }

  /// Whether attention is causal under this mode (auto: the family's own).
  bool is_causal(AttentionMode mode) const;

  /// A caption's rows are bitwise independent of its neighbours in the batch.
  Encoded encode(Exec& exec, std::span<const std::string> captions,
                 const EncodeOptions& options) const;
  /// The same for token ids made elsewhere: ids (T), offsets (n+1).
  Encoded encode_ids(Exec& exec, std::span<const std::int32_t> ids,
                     std::span<const std::int64_t> offsets, const EncodeOptions& options) const;

 private:
  TextEncoder(Tokenizer tokenizer, Decoder decoder);
  Tokenizer tokenizer_;
  Decoder decoder_;
};

}  // namespace strata
