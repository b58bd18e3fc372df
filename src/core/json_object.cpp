#include "core/json_object.hpp"

#include "core/error.hpp"

namespace strata {

using nlohmann::json;

JsonObject::JsonObject(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) fail(Exit::data, "{}: not a JSON object", where_);
}

const json& JsonObject::take(const char* key) {
  const auto found = object_.find(key);
  if (found == object_.end()) fail(Exit::data, "{}: key {} is missing", where_, key);
  ++taken_;
  return *found;
}

std::string JsonObject::text(const char* key) {
  const json& value = take(key);
  if (!value.is_string()) refuse(key, "is not a string");
  return value.get<std::string>();
}

std::string JsonObject::text_or_null(const char* key) {
  const json& value = take(key);
  if (value.is_null()) return {};
  if (!value.is_string()) refuse(key, "is not a string");
  return value.get<std::string>();
}

std::string JsonObject::digest_or_null(const char* key) {
  std::string value = text_or_null(key);
  const bool is_digest =
      value.size() == 64 && value.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!value.empty() && !is_digest) refuse(key, "is not a SHA-256");
  return value;
}

std::int64_t JsonObject::integer(const char* key, std::int64_t low, std::int64_t high) {
  return integer(take(key), key, low, high);
}

std::int64_t JsonObject::integer(const json& value, const char* key, std::int64_t low,
                                 std::int64_t high) const {
  if (!value.is_number_integer()) refuse(key, "is not an integer");
  const bool is_beyond = value.is_number_unsigned() &&
                         value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
  if (is_beyond || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    refuse(key, fmt::format("is {}, not in {}..{}", value.dump(), low, high));
  return value.get<std::int64_t>();
}

double JsonObject::number(const char* key, double low, double high) {
  const json& value = take(key);
  const bool fits = value.is_number() && value.get<double>() >= low && value.get<double>() <= high;
  if (!fits) refuse(key, fmt::format("is not a number in {}..{}", low, high));
  return value.get<double>();
}

const json& JsonObject::array(const char* key) {
  const json& value = take(key);
  if (!value.is_array()) refuse(key, "is not an array");
  return value;
}

void JsonObject::finish() const {
  if (taken_ != object_.size()) fail(Exit::data, "{}: has keys that are not known", where_);
}

void JsonObject::refuse(const char* key, std::string_view what) const {
  fail(Exit::data, "{}: key {}: {}", where_, key, what);
}

}  // namespace strata
