#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace strata {

/// How the L+1 hidden states of a language model become one embedding a token.
struct Strategy {
  enum class Kind { layer, average, norm_average };
  Kind kind = Kind::layer;
  std::int64_t layer = -1;  // for Kind::layer: 0..L, or negative from the end

  /// "last", "layer:K", "avg" or "norm_avg"; anything else is Error(64).
  static Strategy parse(const std::string& text);
  /// The number of the hidden state that Kind::layer reads; Error(64) when the model has none of
  /// it.
  std::int64_t state_of(std::int64_t layers) const;
};

/// "a,b,c": each must parse, none may occur twice; else Error(64).
std::vector<std::string> parse_strategies(const std::string& list);
/// The folder of a strategy's cache: "layer:15" -> "layer_15".
std::string folder_of_strategy(std::string strategy);

}  // namespace strata
