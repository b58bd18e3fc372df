#include "text/preset.hpp"

#include <algorithm>
#include <filesystem>

#include "core/error.hpp"
#include "core/log.hpp"
#include "core/toml.hpp"
#include "text/preset_files.hpp"

namespace strata {

namespace {

std::vector<std::int32_t> ids_of(const toml::table& table, const char* key) {
  std::vector<std::int32_t> ids;
  if (const toml::array* list = table.at_path(key).as_array())
    for (const auto& id : *list) ids.push_back(id.value<std::int32_t>().value());
  return ids;
}

/// Our own files, which a test reads all of: what they lack is a defect.
EncoderPreset read_preset(std::string_view name, std::string_view text) {
  const toml::table table = toml::parse(text);
  const auto number = [&](const char* key) { return table[key].value<std::int64_t>().value(); };
  const auto word = [&](const char* key) { return table[key].value<std::string>().value(); };
  EncoderPreset preset;
  preset.name = name;
  preset.repository = word("repository");
  preset.model_type = word("model_type");
  preset.width = number("width");
  preset.layers = number("layers");
  preset.vocabulary = number("vocabulary");
  preset.parameters = number("parameters");
  preset.attention = parse_attention(word("attention"));
  preset.before = ids_of(table, "special_tokens.before");
  preset.after = ids_of(table, "special_tokens.after");
  for (const auto& strategy : *table["strategies"].as_array())
    preset.strategies.push_back(strategy.value<std::string>().value());
  return preset;
}

/// The published folder's name in a path: its last component, or the repository of a hub cache.
std::string folder_name(const std::string& dir) {
  const std::filesystem::path path = std::filesystem::weakly_canonical(dir);
  for (const auto& part : path) {
    const std::string name = part.string();
    const auto last = name.rfind("--");
    if (name.starts_with("models--") && last > 6) return name.substr(last + 2);
  }
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

}  // namespace

AttentionMode parse_attention(const std::string& text) {
  if (text == "auto") return AttentionMode::automatic;
  if (text == "causal") return AttentionMode::causal;
  if (text == "bidirectional") return AttentionMode::bidirectional;
  fail(Exit::usage, "--attention {}: auto, causal or bidirectional", text);
}

std::string EncoderPreset::mismatch(const TextConfig& config) const {
  if (config.model_type != model_type)
    return fmt::format("model_type is {}, not {}", config.model_type, model_type);
  const std::int64_t count = published_parameter_count(config);
  for (const auto& [key, is, said] : {std::tuple{"width", config.width, width},
                                      {"layers", config.layers, layers},
                                      {"vocabulary", config.vocabulary, vocabulary},
                                      {"parameters", count, parameters}})
    if (is != said) return fmt::format("{} is {}, not {}", key, is, said);
  return "";
}

const std::vector<EncoderPreset>& encoder_presets() {
  static const std::vector<EncoderPreset> all = [] {
    std::vector<EncoderPreset> read;
    for (const auto& [name, text] : preset_files) read.push_back(read_preset(name, text));
    return read;
  }();
  return all;
}

std::optional<EncoderPreset> find_preset(const std::string& wanted, const std::string& dir) {
  if (wanted == "none") return std::nullopt;
  const std::string folder = wanted == "auto" ? folder_name(dir) : "";
  for (const EncoderPreset& preset : encoder_presets())
    if (preset.name == wanted || (!folder.empty() && preset.repository.ends_with("/" + folder)))
      return preset;
  if (wanted == "auto") return std::nullopt;
  std::string names;
  for (const EncoderPreset& preset : encoder_presets()) names += ", " + preset.name;
  fail(Exit::usage, "--preset {}: auto, none{}", wanted, names);
}

std::optional<EncoderPreset> fitting_preset(const std::string& wanted, const std::string& dir,
                                            const TextConfig& config) {
  auto preset = find_preset(wanted, dir);
  const std::string mismatch = preset ? preset->mismatch(config) : "";
  if (mismatch.empty()) return preset;
  if (wanted != "auto")
    fail(Exit::data, "{}: is not what preset {} says: {}", dir, preset->name, mismatch);
  log::warn("{}: named like preset {}, but {}", dir, preset->name, mismatch);
  return std::nullopt;
}

bool is_causal(AttentionMode mode, const std::optional<EncoderPreset>& preset,
               const TextConfig& config) {
  if (mode == AttentionMode::automatic && preset) mode = preset->attention;
  return mode == AttentionMode::automatic ? config.causal : mode == AttentionMode::causal;
}

}  // namespace strata
