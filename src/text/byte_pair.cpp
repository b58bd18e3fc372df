#include "text/byte_pair.hpp"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_set>
#include <utility>

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {
constexpr std::size_t max_cached_word = 256, max_cached_words = 65536;
constexpr std::size_t max_token_bytes = 1 << 16;

std::string optional_string(const nlohmann::json& description, const char* key,
                            const std::string& where) {
  return has_value(description, key) ? string_member(description, key, where) : std::string();
}
}  // namespace

BytePairModel::BytePairModel(const nlohmann::json& description, const std::string& where) {
  // Old files leave the type out; a BPE model is then known by its merges.
  const bool typed = has_value(description, "type");
  const std::string type = typed ? string_member(description, "type", where) : "BPE";
  if (type != "BPE") fail(Exit::data, "{}: model type {:.60} is not supported", where, type);
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
    unknown_ = id_of(unknown);
    if (!unknown_)
      fail(Exit::data, "{}: unk_token {:.60} is not in the vocabulary", where,
           nlohmann::json(unknown).dump());
  }
  for (int byte = 0; byte < 256; ++byte)
    byte_ids_.push_back(id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1));
}

void BytePairModel::read_vocabulary(const nlohmann::json& vocabulary, const std::string& where) {
  if (!vocabulary.is_object()) fail(Exit::data, "{}: vocab is not an object", where);
  std::unordered_set<std::int32_t> taken;
  for (const auto& [token, value] : vocabulary.items()) {
    const std::int32_t id = token_id(value, where + ": vocab");
    if (!taken.insert(id).second)
      fail(Exit::data, "{}: vocab: id {} is given to {:.60} and to another token", where, id,
           nlohmann::json(token).dump());
    if (token.size() > max_token_bytes)
      fail(Exit::data, "{}: vocab: token {} is {} bytes long", where, id, token.size());
    vocabulary_.emplace(token, id);
    largest_id_ = std::max(largest_id_, id);
  }
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
      const auto found = id_of(token);
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

std::optional<std::int32_t> BytePairModel::id_of(std::string_view token) const {
  const auto it = vocabulary_.find(token);
  if (it == vocabulary_.end()) return std::nullopt;
  return it->second;
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
    if (const auto id = id_of(text)) {
      if (std::exchange(unknown_pending, false)) ids.push_back(*unknown_);
      ids.push_back(*id);
      continue;
    }
    if (byte_fallback_) {
      const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
      if (std::all_of(text.begin(), text.end(), [&](char c) { return byte_id(c) >= 0; })) {
        for (char c : text) ids.push_back(byte_id(c));
        continue;
      }
    }
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

void BytePairModel::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_)
    if (const auto whole = id_of(word)) return ids.push_back(*whole);
  if (const auto hit = cache_.find(word); hit != cache_.end()) {
    ids.insert(ids.end(), hit->second.begin(), hit->second.end());
    return;
  }
  const std::vector<std::int32_t> merged = merge(characters(word));
  ids.insert(ids.end(), merged.begin(), merged.end());
  if (word.size() <= max_cached_word) {
    if (cache_.size() == max_cached_words) cache_.clear();
    cache_.emplace(word, merged);
  }
}

}  // namespace strata
