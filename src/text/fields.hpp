#pragma once
// Typed access to the members of a JSON object from outside; every error is Error(65) naming the
// place.

#include <nlohmann/json.hpp>
#include <string>

#include "core/error.hpp"

namespace strata {

inline const nlohmann::json& member(const nlohmann::json& object, const char* key,
                                    const std::string& where) {
  if (!object.is_object()) fail(Exit::data, "{}: not an object", where);
  const auto it = object.find(key);
  if (it == object.end()) fail(Exit::data, "{}: no \"{}\"", where, key);
  return *it;
}

inline std::string string_member(const nlohmann::json& object, const char* key,
                                 const std::string& where) {
  const auto& value = member(object, key, where);
  if (!value.is_string()) fail(Exit::data, "{}: \"{}\" is not a string", where, key);
  return value.get<std::string>();
}

/// Absent or null is `otherwise`.
inline bool bool_member(const nlohmann::json& object, const char* key, bool otherwise,
                        const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return otherwise;
  if (!it->is_boolean()) fail(Exit::data, "{}: \"{}\" is not true or false", where, key);
  return it->get<bool>();
}

inline const nlohmann::json& array_member(const nlohmann::json& object, const char* key,
                                          const std::string& where) {
  const auto& value = member(object, key, where);
  if (!value.is_array()) fail(Exit::data, "{}: \"{}\" is not an array", where, key);
  return value;
}

/// Absent and null are the same in tokenizer.json.
inline bool has_value(const nlohmann::json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && !it->is_null();
}

/// A token id: 0 .. 2^24-1, far above every vocabulary there is.
inline std::int32_t token_id(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= (1u << 24))
    fail(Exit::data, "{}: {:.40} is not a token id", where, value.dump());
  return value.get<std::int32_t>();
}

}  // namespace strata
