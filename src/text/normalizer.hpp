#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace strata {

/// What tokenizer.json does to a text before it is cut into words.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;
};

/// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, Precompiled, Sequence;
/// null is the identity. Error(65) names any other type.
std::unique_ptr<Normalizer> make_normalizer(const nlohmann::json& description,
                                            const std::string& where);

}  // namespace strata
