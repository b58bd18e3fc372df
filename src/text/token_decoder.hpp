#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace strata {

/// What tokenizer.json does to tokens before they are joined to a text.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  virtual std::vector<std::string> apply(std::vector<std::string> tokens) const = 0;
};

/// ByteLevel, ByteFallback, Metaspace, Fuse, Replace, Strip, BPEDecoder, Sequence; null puts a
/// space between tokens. Error(65) names any other type.
std::unique_ptr<TokenDecoder> make_token_decoder(const nlohmann::json& description,
                                                 const std::string& where);

}  // namespace strata
