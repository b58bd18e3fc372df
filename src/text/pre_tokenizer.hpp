#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace strata {

/// Cuts normalized text into the words within which tokens are merged.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// No word of the result is empty.
  virtual std::vector<std::string> cut(std::vector<std::string> words) const = 0;
};

/// ByteLevel, Split, Digits, Sequence; null leaves the text whole. Error(65) names any other type.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& description,
                                                 const std::string& where);

}  // namespace strata
