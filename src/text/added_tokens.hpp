#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_trie.hpp"
#include "text/normalizer.hpp"
#include "text/vocabulary.hpp"

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
  AddedTokens(const nlohmann::json& description, const Vocabulary& vocabulary,
              const Normalizer& normalizer, const std::string& where);

  /// Leftmost, then longest; the pieces point into `text`.
  std::vector<Piece> cut(std::string_view text, bool normalized) const;
  std::optional<std::int32_t> id_of(std::string_view content) const;
  /// What decoding begins with: the token as it stands in normalized text where it is looked for
  /// there.
  std::optional<std::string_view> token_of(std::int32_t id) const;
  bool is_special(std::string_view content) const;
  std::int32_t largest_id() const { return largest_id_; }

 private:
  struct Token {
    std::string content, in_text;  // as it is written, as it is looked for
    std::int32_t id;
    bool special, left_strip, right_strip, single_word, normalized;
  };
  Token read(const nlohmann::json& item, const Normalizer& normalizer,
             const std::string& where) const;

  std::vector<Token> tokens_;
  TextMap<std::size_t> by_content_;
  std::unordered_map<std::int32_t, std::size_t> by_id_;
  ByteTrie plain_, normalized_;
  std::int32_t largest_id_ = -1;
};

}  // namespace strata
