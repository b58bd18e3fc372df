#pragma once
// Captions, their index, and the options to cache their embeddings with the decoder of the goldens.

#include <fstream>
#include <string>

#include "data/index.hpp"
#include "precompute/cache_text.hpp"

namespace strata {

constexpr int fixture_captions = 23;

inline std::string fixture_caption(int i) {
  std::string caption;
  for (int k = 0; k < i * 5 % 7; ++k)
    caption += "a red circle above a blue square number " + std::to_string(i) + ". ";
  return caption;
}

/// Writes `dir`/index.jsonl; some captions are empty, some longer than a block of tokens.
inline void write_caption_index(const std::string& dir) {
  std::ofstream index(dir + "/index.jsonl");
  for (int i = 0; i < fixture_captions; ++i) {
    const std::string caption = fixture_caption(i);
    index << "{\"image\": \"\", \"caption\": \"" << caption << "\", \"captions\": [\"" << caption
          << "\"]}\n";
  }
}

inline TextCacheOptions text_options(const std::string& dir, const std::string& out) {
  TextCacheOptions options;
  options.encoder = std::string(STRATA_SOURCE_DIR) + "/tests/golden/text/llama";
  options.index = dir + "/index.jsonl";
  options.out = dir + "/" + out;
  options.strategies = {"last", "layer:2", "norm_avg"};
  options.pooled = true;
  options.rows_per_shard = 4;
  return options;
}

}  // namespace strata
