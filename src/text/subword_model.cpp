#include "text/subword_model.hpp"

#include <algorithm>

#include "text/byte_pair.hpp"
#include "text/fields.hpp"
#include "text/unigram.hpp"

namespace strata {

namespace {
constexpr std::size_t max_cached_word = 256, max_cached_words = 65536;
}

void SubwordModel::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (const auto hit = cache_.find(word); hit != cache_.end()) {
    ids.insert(ids.end(), hit->second.begin(), hit->second.end());
    return;
  }
  std::vector<std::int32_t> own = segment(word);
  ids.insert(ids.end(), own.begin(), own.end());
  if (word.size() > max_cached_word) return;
  if (cache_.size() == max_cached_words) cache_.clear();
  cache_.emplace(word, std::move(own));
}

std::vector<std::int32_t> SubwordModel::byte_ids() const {
  std::vector<std::int32_t> ids;
  for (int byte = 0; byte < 256; ++byte)
    ids.push_back(vocabulary_.id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1));
  return ids;
}

bool SubwordModel::append_bytes(std::string_view text, const std::vector<std::int32_t>& byte_ids,
                                std::vector<std::int32_t>& ids) {
  const auto id = [&](char c) { return byte_ids[static_cast<unsigned char>(c)]; };
  if (!std::all_of(text.begin(), text.end(), [&](char c) { return id(c) >= 0; })) return false;
  for (char c : text) ids.push_back(id(c));
  return true;
}

std::unique_ptr<SubwordModel> make_subword_model(const nlohmann::json& description,
                                                 const std::string& where) {
  // Old files leave the type out; a BPE model is then known by its merges.
  const bool typed = has_value(description, "type");
  const std::string type = typed ? string_member(description, "type", where) : "BPE";
  if (type == "BPE") return std::make_unique<BytePairModel>(description, where);
  if (type == "Unigram") return std::make_unique<UnigramModel>(description, where);
  fail(Exit::data, "{}: model type {:.60} is not supported", where, type);
}

}  // namespace strata
