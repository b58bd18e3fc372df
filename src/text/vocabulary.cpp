#include "text/vocabulary.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace strata {

namespace {
constexpr std::size_t max_token_bytes = 1 << 16;
}

void Vocabulary::add(std::string_view token, std::int32_t id, const std::string& where) {
  if (token.size() > max_token_bytes)
    fail(Exit::data, "{}: vocab: token {} is {} bytes long", where, id, token.size());
  const auto [it, added] = ids_.insert_or_assign(std::string(token), id);
  if (!tokens_.emplace(id, it->first).second)
    fail(Exit::data, "{}: vocab: id {} is given to {:.60} and to another token", where, id,
         nlohmann::json(std::string(token)).dump());
  largest_id_ = std::max(largest_id_, id);
}

std::optional<std::int32_t> Vocabulary::id_of(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<std::string_view> Vocabulary::token_of(std::int32_t id) const {
  const auto it = tokens_.find(id);
  if (it == tokens_.end()) return std::nullopt;
  return it->second;
}

}  // namespace strata
