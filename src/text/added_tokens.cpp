#include "text/added_tokens.hpp"

#include <algorithm>

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {
constexpr std::size_t max_content_bytes = 1024;  // bounds the work a byte of text
}

void AddedTokens::Trie::add(std::string_view text, std::int32_t index) {
  std::uint32_t node = 0;
  for (char c : text) {
    const std::uint64_t edge = std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [it, added] = children.emplace(edge, token.size());
    if (added) token.push_back(-1);
    node = it->second;
  }
  if (token[node] < 0) token[node] = index;
}

std::pair<std::int32_t, std::size_t> AddedTokens::Trie::longest(std::string_view text,
                                                                std::size_t at) const {
  std::pair<std::int32_t, std::size_t> best{-1, at};
  std::uint32_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto it = children.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (it == children.end()) break;
    node = it->second;
    if (token[node] >= 0) best = {token[node], i + 1};
  }
  return best;
}

AddedTokens::AddedTokens(const nlohmann::json& description, const BytePairModel& model,
                         const Normalizer& normalizer, const std::string& where) {
  if (description.is_null()) return;
  if (!description.is_array()) fail(Exit::data, "{}: added_tokens is not an array", where);
  auto next = static_cast<std::int32_t>(model.size());
  for (const auto& item : description) {
    Token token{string_member(item, "content", where),
                token_id(member(item, "id", where), where + ": added_tokens"),
                bool_member(item, "special", false, where),
                bool_member(item, "lstrip", false, where),
                bool_member(item, "rstrip", false, where),
                bool_member(item, "single_word", false, where),
                bool_member(item, "normalized", true, where)};
    const std::string shown = nlohmann::json(token.content).dump();
    if (token.content.empty() || token.content.size() > max_content_bytes)
      fail(Exit::data, "{}: added token {}: its text has {} bytes", where, token.id,
           token.content.size());
    if (id_of(token.content) >= 0)
      fail(Exit::data, "{}: added token {:.80} is there twice", where, shown);
    const std::int32_t expected = model.id_of(token.content).value_or(next);
    if (token.id != expected)
      fail(Exit::data, "{}: added token {:.80} has id {}, but the vocabulary makes it {}", where,
           shown, token.id, expected);
    next = std::max(next, token.id + 1);
    largest_id_ = std::max(largest_id_, token.id);
    tokens_.push_back(std::move(token));
  }
  // Where two tokens are the same once normalized, a special one wins.
  std::stable_partition(tokens_.begin(), tokens_.end(), [](const Token& t) { return t.special; });
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const Token& token = tokens_[i];
    if (!token.normalized)
      plain_.add(token.content, static_cast<std::int32_t>(i));
    else if (const std::string text = normalizer.apply(token.content); !text.empty())
      normalized_.add(text, static_cast<std::int32_t>(i));
  }
}

std::vector<Piece> AddedTokens::cut(std::string_view text, bool normalized) const {
  const Trie& trie = normalized ? normalized_ : plain_;
  std::vector<Piece> pieces;
  std::size_t covered = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto [index, match_end] = trie.longest(text, at);
    if (index < 0) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = match_end;
    at = match_end;
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

std::int32_t AddedTokens::id_of(std::string_view content) const {
  for (const Token& token : tokens_)
    if (token.content == content) return token.id;
  return -1;
}

}  // namespace strata
