#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace strata {

/// Lets a map with string keys be searched with a string_view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>()(text);
  }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

/// Tokens and their ids, both ways.
class Vocabulary {
 public:
  /// A token that is there already moves to the new id. An id given twice and a token longer than
  /// 64 KiB are Error(65) naming `where`.
  void add(std::string_view token, std::int32_t id, const std::string& where);

  std::optional<std::int32_t> id_of(std::string_view token) const;
  std::optional<std::string_view> token_of(std::int32_t id) const;
  std::size_t size() const { return ids_.size(); }
  std::int32_t largest_id() const { return largest_id_; }
  const TextMap<std::int32_t>& ids() const { return ids_; }

 private:
  TextMap<std::int32_t> ids_;
  std::unordered_map<std::int32_t, std::string_view> tokens_;  // views of ids_' keys
  std::int32_t largest_id_ = -1;
};

}  // namespace strata
