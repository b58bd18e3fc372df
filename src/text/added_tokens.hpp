#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_pair.hpp"
#include "text/normalizer.hpp"

namespace strata {

/// A stretch of text: one added token, or (id < 0) text still to be cut.
struct Piece {
  std::string_view text;
  std::int32_t id = -1;
};

/// The tokens that are cut out of a text before anything else: those of plain text first, then
/// those that are looked for in normalized text.
class AddedTokens {
 public:
  /// The "added_tokens" array of tokenizer.json. An id that is not the one `tokenizers` would give
  /// is Error(65).
  AddedTokens(const nlohmann::json& description, const BytePairModel& model,
              const Normalizer& normalizer, const std::string& where);

  /// Leftmost, then longest; the pieces point into `text`.
  std::vector<Piece> cut(std::string_view text, bool normalized) const;
  /// -1 when there is none of that text.
  std::int32_t id_of(std::string_view content) const;
  std::int32_t largest_id() const { return largest_id_; }

 private:
  struct Token {
    std::string content;
    std::int32_t id;
    bool special, left_strip, right_strip, single_word, normalized;
  };
  /// A byte trie: (node, byte) -> node; `token` of a node is an index or -1.
  struct Trie {
    std::unordered_map<std::uint64_t, std::uint32_t> children;
    std::vector<std::int32_t> token{-1};
    void add(std::string_view text, std::int32_t index);
    /// The longest token that begins at text[at]: its index and end.
    std::pair<std::int32_t, std::size_t> longest(std::string_view text, std::size_t at) const;
  };

  std::vector<Token> tokens_;
  Trie plain_, normalized_;
  std::int32_t largest_id_ = -1;
};

}  // namespace strata
