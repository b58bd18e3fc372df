#include "text/byte_pair.hpp"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {
std::string optional_string(const nlohmann::json& description, const char* key,
                            const std::string& where) {
  return has_value(description, key) ? string_member(description, key, where) : std::string();
}
}  // namespace

BytePairModel::BytePairModel(const nlohmann::json& description, const std::string& where) {
  if (has_value(description, "dropout") && description["dropout"] != 0.0)
    fail(Exit::data, "{}: model dropout is not supported", where);
  prefix_ = optional_string(description, "continuing_subword_prefix", where);
  suffix_ = optional_string(description, "end_of_word_suffix", where);
  fuse_unknown_ = bool_member(description, "fuse_unk", false, where);
  byte_fallback_ = bool_member(description, "byte_fallback", false, where);
  ignore_merges_ = bool_member(description, "ignore_merges", false, where);
  read_vocabulary(member(description, "vocab", where), where);
  read_merges(array_member(description, "merges", where), where);

  const std::string unknown = optional_string(description, "unk_token", where);
  if (has_value(description, "unk_token")) {
    unknown_ = vocabulary_.id_of(unknown);
    if (!unknown_)
      fail(Exit::data, "{}: unk_token {:.60} is not in the vocabulary", where,
           nlohmann::json(unknown).dump());
  }
  byte_ids_ = byte_ids();
}

void BytePairModel::read_vocabulary(const nlohmann::json& vocabulary, const std::string& where) {
  if (!vocabulary.is_object()) fail(Exit::data, "{}: vocab is not an object", where);
  for (const auto& [token, value] : vocabulary.items())
    vocabulary_.add(token, token_id(value, where + ": vocab"), where);
}

void BytePairModel::read_merges(const nlohmann::json& merges, const std::string& where) {
  std::int32_t rank = 0;
  for (const auto& item : merges) {
    std::string left, right;
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        fail(Exit::data, "{}: merge {}: {:.80} is not two tokens", where, rank, item.dump());
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get<std::string>();
      right = item[1].get<std::string>();
    } else {
      fail(Exit::data, "{}: merge {}: {:.80} is not two tokens", where, rank, item.dump());
    }
    const auto id = [&](const std::string& token) {
      const auto found = vocabulary_.id_of(token);
      if (!found)
        fail(Exit::data, "{}: merge {}: {:.80} is not in the vocabulary", where, rank,
             nlohmann::json(token).dump());
      return *found;
    };
    if (right.size() < prefix_.size())
      fail(Exit::data, "{}: merge {}: shorter than the subword prefix", where, rank);
    const std::int32_t left_id = id(left), right_id = id(right);
    const std::int32_t joined = id(left + right.substr(prefix_.size()));
    const std::uint64_t key = std::uint64_t(left_id) << 32 | std::uint64_t(right_id);
    merges_[key] = {rank++, joined};
  }
}

const BytePairModel::Merge* BytePairModel::find_merge(std::int32_t left, std::int32_t right) const {
  const auto it = merges_.find(std::uint64_t(left) << 32 | std::uint64_t(right));
  return it == merges_.end() ? nullptr : &it->second;
}

/// The ids of the word's single characters; those without one by their bytes, or as unknown.
std::vector<std::int32_t> BytePairModel::characters(std::string_view word) const {
  std::vector<std::int32_t> ids;
  bool unknown_pending =
      false;  // written late, behind byte ids that follow it: as in the reference
  std::string text;
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t length = utf8_length(word[i]);
    text.assign(i == 0 ? "" : prefix_).append(word.substr(i, length));
    i += length;
    if (i == word.size()) text += suffix_;
    if (const auto id = vocabulary_.id_of(text)) {
      if (std::exchange(unknown_pending, false)) ids.push_back(*unknown_);
      ids.push_back(*id);
      continue;
    }
    if (byte_fallback_ && append_bytes(text, byte_ids_, ids)) continue;
    if (!unknown_) continue;
    if (unknown_pending && !fuse_unknown_) ids.push_back(*unknown_);
    unknown_pending = true;
  }
  if (unknown_pending) ids.push_back(*unknown_);
  return ids;
}

/// Joins the pair of lowest rank, leftmost first, until there is none: a linked list of symbols and
/// a queue of candidate pairs, stale ones being skipped.
std::vector<std::int32_t> BytePairModel::merge(std::vector<std::int32_t> symbols) const {
  struct Candidate {
    std::int32_t rank, position, id;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, position) > std::pair(other.rank, other.position);
    }
  };
  const auto count = static_cast<std::int32_t>(symbols.size());
  std::vector<std::int32_t> next(symbols.size()), previous(symbols.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t left, std::int32_t right) {
    if (const Merge* found = find_merge(symbols[left], symbols[right]))
      queue.push({found->rank, left, found->id});
  };
  for (std::int32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
    if (i + 1 < count) consider(i, i + 1);
  }
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const std::int32_t left = top.position;
    if (symbols[left] < 0 || next[left] == count) continue;
    const std::int32_t right = next[left];
    const Merge* found = find_merge(symbols[left], symbols[right]);
    if (!found || found->id != top.id) continue;
    symbols[left] = top.id;
    symbols[right] = -1;
    next[left] = next[right];
    if (next[left] < count) {
      previous[next[left]] = left;
      consider(left, next[left]);
    }
    if (previous[left] >= 0) consider(previous[left], left);
  }
  std::erase(symbols, -1);
  return symbols;
}

std::vector<std::int32_t> BytePairModel::segment(std::string_view word) const {
  if (ignore_merges_)
    if (const auto whole = vocabulary_.id_of(word)) return {*whole};
  return merge(characters(word));
}

}  // namespace strata
