#include "model/config_reader.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"

namespace strata {

namespace {

constexpr std::uint64_t max_bytes = std::uint64_t{1} << 20;
constexpr std::size_t max_list = 16;

bool is_integer(const nlohmann::json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) return false;
  const bool too_large =
      value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most);
  return !too_large && value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
}

bool is_bounded_list(const nlohmann::json& value) {
  return value.is_array() && !value.empty() && value.size() <= max_list;
}

}  // namespace

struct ConfigReader::Impl {
  std::string path;
  nlohmann::json json;

  /// Null when the key is absent.
  const nlohmann::json& at(const std::string& key) const {
    static const nlohmann::json null;
    const auto found = json.find(key);
    return found == json.end() ? null : *found;
  }
};

ConfigReader::ConfigReader(const std::string& path)
    : ConfigReader(read_file(path, max_bytes), path) {}

ConfigReader::ConfigReader(std::string_view json, const std::string& path)
    : impl_(std::make_unique<Impl>(Impl{path, parse_json(json, path)})) {
  if (!impl_->json.is_object()) fail(Exit::data, "{}: not a JSON object", path);
}

ConfigReader::~ConfigReader() = default;

bool ConfigReader::has(const std::string& key) const {
  return !impl_->at(key).is_null();
}

bool ConfigReader::is_null(const std::string& key) const {
  return impl_->json.contains(key) && !has(key);
}

bool ConfigReader::is_list(const std::string& key) const {
  return impl_->at(key).is_array();
}

void ConfigReader::refuse(const std::string& key, const std::string& why) const {
  std::string value = impl_->at(key).dump();
  if (value.size() > 200) value = value.substr(0, 200) + "...";
  fail(Exit::data, "{}: {} = {}: {}", impl_->path, key, value, why);
}

std::int64_t ConfigReader::integer(const std::string& key, std::int64_t otherwise,
                                   std::int64_t least, std::int64_t most) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_number_integer()) refuse(key, "not an integer");
  if (!is_integer(value, least, most)) refuse(key, fmt::format("not in {}..{}", least, most));
  return value.get<std::int64_t>();
}

double ConfigReader::number(const std::string& key, double otherwise) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_number()) refuse(key, "not a number");
  return value.get<double>();
}

bool ConfigReader::boolean(const std::string& key, bool otherwise) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) refuse(key, "neither true nor false");
  return value.get<bool>();
}

std::string ConfigReader::text(const std::string& key, const std::string& otherwise) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_string()) refuse(key, "not a text");
  return value.get<std::string>();
}

ConfigReader ConfigReader::object(const std::string& key) const {
  const auto& value = impl_->at(key);
  if (!value.is_object()) refuse(key, "not an object");
  return ConfigReader(value.dump(), impl_->path + ": " + key);
}

std::vector<std::int64_t> ConfigReader::integers(const std::string& key, std::size_t count,
                                                 std::int64_t otherwise, std::int64_t least,
                                                 std::int64_t most) const {
  if (!impl_->at(key).is_array())
    return std::vector<std::int64_t>(count, integer(key, otherwise, least, most));
  auto list = integers(key, std::vector<std::int64_t>{}, least, most);
  if (list.size() != count) refuse(key, fmt::format("needs {} entries", count));
  return list;
}

std::vector<std::int64_t> ConfigReader::integers(const std::string& key,
                                                 std::vector<std::int64_t> otherwise,
                                                 std::int64_t least, std::int64_t most) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!is_bounded_list(value)) refuse(key, fmt::format("not a list of 1 to {} integers", max_list));
  std::vector<std::int64_t> list;
  for (const auto& entry : value) {
    if (!is_integer(entry, least, most))
      refuse(key, fmt::format("an entry is not an integer in {}..{}", least, most));
    list.push_back(entry.get<std::int64_t>());
  }
  return list;
}

std::vector<std::vector<std::int64_t>> ConfigReader::nested_integers(const std::string& key,
                                                                     std::size_t count,
                                                                     std::int64_t otherwise,
                                                                     std::int64_t least,
                                                                     std::int64_t most) const {
  const auto& value = impl_->at(key);
  using Lists = std::vector<std::vector<std::int64_t>>;
  if (!value.is_array()) return Lists(count, {integer(key, otherwise, least, most)});
  if (value.size() != count) refuse(key, fmt::format("needs {} entries", count));
  Lists lists;
  for (const auto& entry : value) {
    const auto list = entry.is_array() ? entry : nlohmann::json::array({entry});
    if (!is_bounded_list(list))
      refuse(key, fmt::format("an entry has not 1 to {} integers", max_list));
    auto& integers = lists.emplace_back();
    for (const auto& number : list) {
      if (!is_integer(number, least, most))
        refuse(key, fmt::format("an entry is not an integer in {}..{}", least, most));
      integers.push_back(number.get<std::int64_t>());
    }
  }
  return lists;
}

std::vector<bool> ConfigReader::booleans(const std::string& key, std::size_t count,
                                         bool otherwise) const {
  const auto& value = impl_->at(key);
  if (!value.is_array()) return std::vector<bool>(count, boolean(key, otherwise));
  if (value.size() != count) refuse(key, fmt::format("needs {} entries", count));
  std::vector<bool> list;
  for (const auto& entry : value) {
    if (!entry.is_boolean()) refuse(key, "an entry is neither true nor false");
    list.push_back(entry.get<bool>());
  }
  return list;
}

std::vector<double> ConfigReader::numbers(const std::string& key, std::size_t most) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return {};
  if (!value.is_array() || value.empty() || value.size() > most)
    refuse(key, fmt::format("not a list of 1 to {} numbers", most));
  std::vector<double> list;
  for (const auto& entry : value) {
    if (!entry.is_number()) refuse(key, "an entry is not a number");
    list.push_back(entry.get<double>());
  }
  return list;
}

std::vector<std::string> ConfigReader::strings(const std::string& key,
                                               std::vector<std::string> otherwise,
                                               std::size_t most) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_array() || value.empty() || value.size() > most)
    refuse(key, fmt::format("not a list of 1 to {} names", most));
  std::vector<std::string> list;
  for (const auto& entry : value) {
    if (!entry.is_string()) refuse(key, "an entry is not a name");
    list.push_back(entry.get<std::string>());
  }
  return list;
}

void ConfigReader::require(const std::string& key,
                           std::initializer_list<const char*> allowed) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return;
  std::string names;
  for (const char* text : allowed) {
    if (value == nlohmann::json::parse(text)) return;
    names += (names.empty() ? "" : ", ") + std::string(text);
  }
  refuse(key, fmt::format("not supported (supported: {})", names));
}

void ConfigReader::require_not_null(const std::string& key) const {
  if (is_null(key)) refuse(key, "not supported");
}

void ConfigReader::refuse_unknown(std::span<const std::string_view> known) const {
  for (const auto& [key, value] : impl_->json.items()) {
    if (key.starts_with('_') || value.is_null() || value == false) continue;
    if (std::find(known.begin(), known.end(), key) == known.end())
      refuse(key, "unknown: it may change what the model computes");
  }
}

}  // namespace strata
