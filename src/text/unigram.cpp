#include "text/unigram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {
constexpr double unknown_penalty = 10;  // below the least probable token
}

UnigramModel::UnigramModel(const nlohmann::json& description, const std::string& where)
    : where_(where), byte_fallback_(bool_member(description, "byte_fallback", false, where)) {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& item : array_member(description, "vocab", where)) {
    const auto id = static_cast<std::int32_t>(scores_.size());
    if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number() ||
        !std::isfinite(item[1].get<double>()))
      fail(Exit::data, "{}: vocab: token {}: {:.80} is not [text, score]", where, id, item.dump());
    vocabulary_.add(item[0].get_ref<const std::string&>(), id, where);
    scores_.push_back(item[1].get<double>());
    least = std::min(least, scores_.back());
  }
  unknown_score_ = least - unknown_penalty;
  if (has_value(description, "unk_id")) {
    unknown_ = token_id(description["unk_id"], where + ": unk_id");
    if (static_cast<std::size_t>(unknown_) >= scores_.size())
      fail(Exit::data, "{}: unk_id {} is not in the vocabulary", where, unknown_);
  }
  byte_ids_ = byte_ids();
  std::vector<ByteTrie::Entry> entries(vocabulary_.ids().begin(), vocabulary_.ids().end());
  trie_ = ByteTrie(std::move(entries), where);
}

std::vector<UnigramModel::Step> UnigramModel::best_steps(std::string_view word) const {
  std::vector<Step> steps(word.size() + 1);
  for (std::size_t begin = 0; begin < word.size();) {
    const std::size_t character = utf8_length(word[begin]);
    const double so_far = steps[begin].score;
    bool is_token = false;  // the single character
    const auto consider = [&](std::size_t bytes, std::int32_t id, double score) {
      Step& step = steps[begin + bytes];
      if (step.id < 0 || so_far + score > step.score) step = {so_far + score, begin, id};
    };
    trie_.for_each_prefix(word.substr(begin), [&](std::size_t bytes, std::int32_t id) {
      consider(bytes, id, scores_[id]);
      is_token = is_token || bytes == character;
    });
    if (!is_token) {
      if (unknown_ < 0)
        fail(Exit::data, "{}: a character is not in the vocabulary, and there is no unk_id",
             where_);
      consider(character, unknown_, unknown_score_);
    }
    begin += character;
  }
  return steps;
}

void UnigramModel::append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const {
  if (const auto id = vocabulary_.id_of(text))
    ids.push_back(*id);
  else if (!byte_fallback_ || !append_bytes(text, byte_ids_, ids))
    ids.push_back(unknown_);
}

std::vector<std::int32_t> UnigramModel::segment(std::string_view word) const {
  const std::vector<Step> steps = best_steps(word);
  std::vector<std::size_t> ends;  // of the best path's tokens, from the word's end
  for (std::size_t end = word.size(); end > 0; end = steps[end].begin) ends.push_back(end);
  std::vector<std::int32_t> ids;
  for (std::size_t k = ends.size(); k-- > 0;) {
    const Step& step = steps[ends[k]];
    if (step.id != unknown_) {
      ids.push_back(step.id);
      continue;
    }
    while (k > 0 && steps[ends[k - 1]].id == unknown_) --k;
    append_unknown(word.substr(step.begin, ends[k] - step.begin), ids);
  }
  return ids;
}

}  // namespace strata
