#pragma once
// Captions -> text embeddings, once, before training.

#include <string>
#include <vector>

#include "data/cache_format.hpp"
#include "dist/communicator.hpp"
#include "text/text_encoder.hpp"

namespace strata {

struct TextCacheOptions {
  std::string encoder;  // folder of the language model, or of the pipeline that holds it
  std::string index;    // index.jsonl
  std::string out;      // one folder a strategy is made in it
  std::vector<std::string> strategies{"last"};
  bool pooled = false;
  std::size_t max_tokens = 0;   // 0: the encoder's default
  std::string preset = "auto";  // as in find_preset
  AttentionMode attention = AttentionMode::automatic;
  CacheDType dtype = CacheDType::bfloat16;
  DType compute = DType::f32;
  Device device{};                  // of the encoder
  bool graph = true;                // its passes on a device are recorded and played
  std::int64_t rows_per_shard = 0;  // 0: default_rows_per_shard
  bool overwrite = false;
  /// No layer of the model stays in memory: each is read from the files when its turn comes, once
  /// for every pass of as many captions of a shard as stay within `pass_tokens` tokens.
  bool stream = false;
  std::int64_t pass_tokens = default_pass_tokens;
  static constexpr std::int64_t default_pass_tokens = 65536;
};

/// Collective. Encodes each sample's first caption, all strategies in one pass, in batches of
/// captions of many lengths that are not padded (text/batch_order.hpp). Ranks share the shards; a
/// caption's embedding does not depend on its neighbours, so the finished caches are byte-identical
/// whatever the ranks and kills, streamed or not. False when every cache was complete before.
bool cache_text(const TextCacheOptions& options, Communicator& communicator);

}  // namespace strata
