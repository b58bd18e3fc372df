#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace strata {

/// A stretch of normalized text within which tokens are merged.
struct Word {
  std::string text;
  bool at_begin;  // it begins where the whole text begins
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// No word of the result is empty.
  virtual std::vector<Word> cut(std::vector<Word> words) const = 0;
};

/// ByteLevel, Split, Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit, Sequence; null
/// leaves the text whole. Error(65) names any other type.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& description,
                                                 const std::string& where);

}  // namespace strata
