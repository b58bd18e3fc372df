#include "model/config_reader.hpp"

#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"

namespace strata {

namespace {

constexpr std::uint64_t max_bytes = std::uint64_t{1} << 20;
constexpr std::size_t max_list = 16;

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
  const bool too_large =
      value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most);
  if (too_large || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
    refuse(key, fmt::format("not in {}..{}", least, most));
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
  if (!value.is_array() || value.empty() || value.size() > max_list)
    refuse(key, fmt::format("not a list of 1 to {} integers", max_list));
  std::vector<std::int64_t> list;
  for (const auto& entry : value) {
    const bool fits = entry.is_number_integer() &&
                      (!entry.is_number_unsigned() ||
                       entry.get<std::uint64_t>() <= static_cast<std::uint64_t>(most)) &&
                      entry.get<std::int64_t>() >= least && entry.get<std::int64_t>() <= most;
    if (!fits) refuse(key, fmt::format("an entry is not an integer in {}..{}", least, most));
    list.push_back(entry.get<std::int64_t>());
  }
  return list;
}

std::vector<std::string> ConfigReader::strings(const std::string& key,
                                               std::vector<std::string> otherwise) const {
  const auto& value = impl_->at(key);
  if (value.is_null()) return otherwise;
  if (!value.is_array() || value.empty() || value.size() > max_list)
    refuse(key, fmt::format("not a list of 1 to {} names", max_list));
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

}  // namespace strata
