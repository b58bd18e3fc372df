#pragma once
// A JSON object of ours that comes from outside: what it holds is proven before it is used.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace strata {

/// Takes members by name, with proof of type and range. Every failure is Error(65) naming the place
/// and the member; `finish` refuses an object of which a member was not taken.
class JsonObject {
 public:
  /// where: the file, and the place in it. Keeps a reference to `object`.
  JsonObject(const nlohmann::json& object, std::string where);

  bool has(const char* key) const { return object_.contains(key); }
  /// The member, whatever it is. Each is taken once.
  const nlohmann::json& take(const char* key);
  std::string text(const char* key);
  /// "" for null.
  std::string text_or_null(const char* key);
  /// Lower-case hex digits of a SHA-256, or "" for null.
  std::string digest_or_null(const char* key);
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high);
  /// The same for an element of the member `key`.
  std::int64_t integer(const nlohmann::json& value, const char* key, std::int64_t low,
                       std::int64_t high) const;
  double number(const char* key, double low, double high);
  const nlohmann::json& array(const char* key);
  void finish() const;

  [[noreturn]] void refuse(const char* key, std::string_view what) const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::size_t taken_ = 0;
};

}  // namespace strata
