#pragma once
// The options that the Metaspace pre-tokenizer and decoder share.

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace strata {

struct MetaspaceOptions {
  enum class Scheme { first, never, always };

  /// "replacement", "prepend_scheme" and, in old files, "add_prefix_space"; Error(65) naming
  /// `where`.
  MetaspaceOptions(const nlohmann::json& description, const std::string& where);

  std::string replacement;  // one character, for a space
  Scheme scheme = Scheme::always;
};

}  // namespace strata
