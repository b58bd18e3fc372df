#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// Typed, bounded look-ups in a model's config.json. Every failure is Error(65) naming file, key
/// and value. A key that is absent or null has the default.
class ConfigReader {
 public:
  explicit ConfigReader(const std::string& path);
  /// The same for text that came from somewhere in `path`.
  ConfigReader(std::string_view json, const std::string& path);
  ~ConfigReader();

  bool has(const std::string& key) const;
  /// The key is there with the value null.
  bool is_null(const std::string& key) const;
  bool is_list(const std::string& key) const;
  std::int64_t integer(const std::string& key, std::int64_t otherwise, std::int64_t least,
                       std::int64_t most) const;
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  /// The object under `key`, which must be there.
  ConfigReader object(const std::string& key) const;
  /// A list of `count` integers, or one integer for all of them.
  std::vector<std::int64_t> integers(const std::string& key, std::size_t count,
                                     std::int64_t otherwise, std::int64_t least,
                                     std::int64_t most) const;
  /// A list of any length, at most 16.
  std::vector<std::int64_t> integers(const std::string& key, std::vector<std::int64_t> otherwise,
                                     std::int64_t least, std::int64_t most) const;
  /// A list of `count` entries, each an integer or a list of integers; one integer stands for all.
  std::vector<std::vector<std::int64_t>> nested_integers(const std::string& key, std::size_t count,
                                                         std::int64_t otherwise, std::int64_t least,
                                                         std::int64_t most) const;
  /// A list of `count` truth values, or one for all of them.
  std::vector<bool> booleans(const std::string& key, std::size_t count, bool otherwise) const;
  /// A list of at most `most` numbers; empty when the key is absent.
  std::vector<double> numbers(const std::string& key, std::size_t most) const;
  /// A list of 1 to `most` names.
  std::vector<std::string> strings(const std::string& key, std::vector<std::string> otherwise,
                                   std::size_t most = 16) const;

  /// Fails unless the key is absent, null or one of `allowed`, each written as JSON.
  void require(const std::string& key, std::initializer_list<const char*> allowed) const;
  /// Fails where the key is there and null: for keys whose null means something else than absence.
  void require_not_null(const std::string& key) const;
  /// Fails on a key that is not among `known`, unless it begins with an underscore or is null or
  /// false, which ask for nothing.
  void refuse_unknown(std::span<const std::string_view> known) const;
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
