#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace strata {

/// The tokenizer.json that `transformers` makes of a folder's vocab.json and merges.txt. The family
/// is tokenizer_class of tokenizer_config.json (CLIP, Qwen2, GPT-2), or model_type of config.json
/// where that is missing, else CLIP
/// by its vocabulary; special tokens come from tokenizer_config.json, special_tokens_map.json
/// and added_tokens.json. Error(65) names another family, and what is unsound.
nlohmann::json tokenizer_of_vocabulary_files(const std::string& folder);

}  // namespace strata
