#include "text/added_tokens.hpp"

#include <algorithm>

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {
constexpr std::size_t max_content_bytes = 1024;  // bounds the work a byte of text
}

AddedTokens::Token AddedTokens::read(const nlohmann::json& item, const Normalizer& normalizer,
                                     const std::string& where) const {
  Token token{string_member(item, "content", where),
              {},
              token_id(member(item, "id", where), where + ": added_tokens"),
              bool_member(item, "special", false, where),
              bool_member(item, "lstrip", false, where),
              bool_member(item, "rstrip", false, where),
              bool_member(item, "single_word", false, where),
              bool_member(item, "normalized", true, where)};
  if (token.content.empty() || token.content.size() > max_content_bytes)
    fail(Exit::data, "{}: added token {}: its text has {} bytes", where, token.id,
         token.content.size());
  if (id_of(token.content))
    fail(Exit::data, "{}: added token {:.80} is there twice", where,
         nlohmann::json(token.content).dump());
  token.in_text = token.normalized ? normalizer.apply(token.content) : token.content;
  if (token.in_text.size() > max_content_bytes)
    fail(Exit::data, "{}: added token {}: the normalizer makes {} bytes of its text", where,
         token.id, token.in_text.size());
  return token;
}

AddedTokens::AddedTokens(const nlohmann::json& description, const Vocabulary& vocabulary,
                         const Normalizer& normalizer, const std::string& where) {
  if (description.is_null()) return;
  if (!description.is_array()) fail(Exit::data, "{}: added_tokens is not an array", where);
  auto next = static_cast<std::int32_t>(vocabulary.size());
  for (const auto& item : description) {
    Token token = read(item, normalizer, where);
    const std::int32_t expected = vocabulary.id_of(token.content).value_or(next);
    if (token.id != expected)
      fail(Exit::data, "{}: added token {:.80} has id {}, but the vocabulary makes it {}", where,
           nlohmann::json(token.content).dump(), token.id, expected);
    next = std::max(next, token.id + 1);
    largest_id_ = std::max(largest_id_, token.id);
    by_content_.emplace(token.content, tokens_.size());
    by_id_.emplace(token.id, tokens_.size());
    tokens_.push_back(std::move(token));
  }
  std::vector<ByteTrie::Entry> plain, normalized;
  const auto collect = [&](bool special) {
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if (const Token& token = tokens_[i]; token.special == special && !token.in_text.empty())
        (token.normalized ? normalized : plain)
            .emplace_back(token.in_text, static_cast<std::int32_t>(i));
  };
  // Where two tokens are the same once normalized, a special one wins.
  collect(true);
  collect(false);
  plain_ = ByteTrie(std::move(plain), where);
  normalized_ = ByteTrie(std::move(normalized), where);
}

std::vector<Piece> AddedTokens::cut(std::string_view text, bool normalized) const {
  const ByteTrie& trie = normalized ? normalized_ : plain_;
  std::vector<Piece> pieces;
  std::size_t covered = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto [bytes, index] = trie.longest_prefix(text.substr(at));
    if (index < 0) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + bytes;
    at = end;
    const Token& token = tokens_[index];
    if (token.single_word &&
        (ends_in_word(text.substr(0, begin)) || begins_with_word(text.substr(end))))
      continue;
    if (token.left_strip)
      begin = std::max(begin - space_at_end(text.substr(0, begin)), std::min(covered, begin));
    if (token.right_strip) end += space_at_begin(text.substr(end));
    if (covered < begin) pieces.push_back({text.substr(covered, begin - covered)});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    covered = end;
  }
  if (covered < text.size()) pieces.push_back({text.substr(covered)});
  return pieces;
}

std::optional<std::int32_t> AddedTokens::id_of(std::string_view content) const {
  const auto it = by_content_.find(content);
  if (it == by_content_.end()) return std::nullopt;
  return tokens_[it->second].id;
}

std::optional<std::string_view> AddedTokens::token_of(std::int32_t id) const {
  const auto it = by_id_.find(id);
  if (it == by_id_.end()) return std::nullopt;
  return tokens_[it->second].in_text;
}

bool AddedTokens::is_special(std::string_view content) const {
  const auto it = by_content_.find(content);
  return it != by_content_.end() && tokens_[it->second].special;
}

}  // namespace strata
