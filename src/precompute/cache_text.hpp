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
  std::int64_t rows_per_shard = 0;  // 0: default_rows_per_shard
  bool overwrite = false;
};

/// Collective. Encodes each sample's first caption, all strategies in one pass. Ranks share the
/// shards; a caption's embedding does not depend on its neighbours, so the finished caches are
/// byte-identical whatever the ranks and kills. False when every cache was complete before.
bool cache_text(const TextCacheOptions& options, Communicator& communicator);

}  // namespace strata
