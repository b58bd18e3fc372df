// The config as TOML: reading with places and nearest names, writing, comparing.

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/toml.hpp"
#include "train/config.hpp"
#include "train/nearest_name.hpp"

namespace strata {

namespace {

constexpr std::uint64_t max_toml_bytes = 1 << 20;
constexpr int max_dots_in_line = 256;  // a dotted key nests once a dot, and the parser recurses

/// What users of diffusers' and kohya's training scripts look for.
constexpr std::array<std::pair<std::string_view, std::string_view>, 23> known_elsewhere{{
    {"output_dir", "output.dir"},
    {"pretrained_model_name_or_path", "model.init"},
    {"max_train_steps", "train.steps"},
    {"train_batch_size", "train.microbatch"},
    {"gradient_accumulation_steps", "train.batch"},
    {"gradient_checkpointing", "train.recompute"},
    {"learning_rate", "train.lr"},
    {"lr_scheduler", "train.schedule"},
    {"lr_warmup_steps", "train.warmup"},
    {"adam_beta1", "train.betas"},
    {"adam_beta2", "train.betas"},
    {"adam_epsilon", "train.eps"},
    {"adam_weight_decay", "train.weight_decay"},
    {"max_grad_norm", "train.clip"},
    {"mixed_precision", "train.precision"},
    {"checkpointing_steps", "train.checkpoint_every"},
    {"checkpoints_total_limit", "train.keep"},
    {"proportion_empty_prompts", "train.caption_drop"},
    {"snr_gamma", "diffusion.min_snr_gamma"},
    {"prediction_type", "diffusion.prediction"},
    {"rescale_betas_zero_snr", "diffusion.zero_terminal_snr"},
    {"use_ema", "train.ema_decay"},
    {"validation_prompts", "samples.prompts"},
}};

template <class... T>
struct Visitor : T... {
  using T::operator()...;
};
template <class... T>
Visitor(T...) -> Visitor<T...>;

std::string place(const std::string& origin, const toml::source_region& source) {
  return fmt::format("{}:{}:{}", origin, source.begin.line, source.begin.column);
}

[[noreturn]] void fail_type(const std::string& where, const Field& field, const toml::node& node) {
  const auto type = node.type();
  const char* found = type == toml::node_type::string           ? "a string"
                      : type == toml::node_type::integer        ? "an integer"
                      : type == toml::node_type::floating_point ? "a number"
                      : type == toml::node_type::boolean        ? "a boolean"
                      : type == toml::node_type::array          ? "an array"
                      : type == toml::node_type::table          ? "a table"
                                                                : "a date or time";
  fail(Exit::usage, "{}: {}: expected {}, found {}", where, field.name(), field.type_name(), found);
}

void check_range(const std::string& where, const Field& field, double value) {
  if (!std::isfinite(value))
    fail(Exit::usage, "{}: {}: {} is not finite", where, field.name(), value);
  if (value < 0 && field.minimum >= 0)
    fail(Exit::usage, "{}: {}: {} is negative", where, field.name(), value);
  if (value < field.minimum || value > field.maximum)
    fail(Exit::usage, "{}: {}: {} is outside {:.10g} .. {:.10g}", where, field.name(), value,
         field.minimum, field.maximum);
}

std::string absolute_path(const std::string& path) {
  if (path.empty()) return path;
  return std::filesystem::absolute(path).lexically_normal().string();
}

double number_of(const std::string& where, const Field& field, const toml::node& node) {
  if (!node.is_number()) fail_type(where, field, node);
  const double value = node.is_integer() ? static_cast<double>(node.as_integer()->get())
                                         : node.as_floating_point()->get();
  check_range(where, field, value);
  return value;
}

void assign_string(const std::string& where, const Field& field, std::string& to,
                   const toml::node& node) {
  if (!node.is_string()) fail_type(where, field, node);
  const std::string& value = node.as_string()->get();
  if (value.find('\0') != std::string::npos)
    fail(Exit::usage, "{}: {}: a NUL byte in the text", where, field.name());
  if (!field.choices.empty() && std::ranges::find(field.choices, value) == field.choices.end()) {
    const std::vector<std::string> choices(field.choices.begin(), field.choices.end());
    const auto nearest = nearest_name(value, choices);
    fail(Exit::usage, "{}: {}: \"{}\" is not one of {}{}", where, field.name(), value,
         fmt::join(choices, ", "),
         nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest));
  }
  to = field.is_path ? absolute_path(value) : value;
}

void assign(const std::string& where, const Field& field, const toml::node& node) {
  const auto elements = [&](auto each) {
    if (!node.is_array()) fail_type(where, field, node);
    for (const auto& element : *node.as_array()) each(element);
  };
  std::visit(
      Visitor{
          [&](std::string* to) { assign_string(where, field, *to, node); },
          [&](std::int64_t* to) {
            if (!node.is_integer()) fail_type(where, field, node);
            number_of(where, field, node);
            *to = node.as_integer()->get();
          },
          [&](double* to) { *to = number_of(where, field, node); },
          [&](bool* to) {
            if (!node.is_boolean()) fail_type(where, field, node);
            *to = node.as_boolean()->get();
          },
          [&](std::vector<double>* to) {
            to->clear();
            elements([&](const toml::node& e) { to->push_back(number_of(where, field, e)); });
          },
          [&](std::vector<std::string>* to) {
            to->clear();
            elements(
                [&](const toml::node& e) { assign_string(where, field, to->emplace_back(), e); });
          },
      },
      field.value);
}

[[noreturn]] void fail_unknown(const std::string& where, const std::string& name,
                               const std::vector<Field>& fields) {
  std::vector<std::string> names;
  for (const auto& f : fields) names.push_back(f.name());
  std::string nearest = nearest_name(name, names);
  // A key under the wrong table is the other common slip.
  const auto key = name.substr(name.find('.') + 1);
  for (const auto& f : fields)
    if (f.key == key) nearest = f.name();
  for (const auto& [theirs, ours] : known_elsewhere)
    if (theirs == key) nearest = ours;
  fail(Exit::usage, "{}: unknown key {}{}", where, name,
       nearest.empty() ? "; `strata config keys` lists them all"
                       : fmt::format("; did you mean {}?", nearest));
}

const Field* find_field(const std::vector<Field>& fields, std::string_view table,
                        std::string_view key) {
  for (const auto& f : fields)
    if (f.table == table && f.key == key) return &f;
  return nullptr;
}

void apply_table(const toml::key& name, const toml::node& node, const std::string& origin,
                 const std::vector<Field>& fields) {
  const std::string table(name.str());
  const auto where = place(origin, name.source());
  std::vector<std::string> tables;
  for (const auto& [known, doc] : config_tables()) tables.emplace_back(known);
  if (std::ranges::find(tables, table) == tables.end()) {
    if (!node.is_table()) fail_unknown(where, table, fields);
    const auto nearest = nearest_name(table, tables);
    fail(Exit::usage, "{}: unknown table [{}]; {}", where, table,
         nearest.empty() ? fmt::format("there are {}", fmt::join(tables, ", "))
                         : fmt::format("did you mean [{}]?", nearest));
  }
  if (!node.is_table()) fail(Exit::usage, "{}: {}: expected a table", where, table);
  for (const auto& [key, value] : *node.as_table()) {
    const Field* field = find_field(fields, table, key.str());
    const auto at = place(origin, key.source());
    if (!field) fail_unknown(at, fmt::format("{}.{}", table, key.str()), fields);
    assign(at, *field, value);
  }
}

toml::table parse_bounded(std::string_view text, const std::string& origin) {
  if (text.size() > max_toml_bytes)
    fail(Exit::usage, "{}: {} bytes are more than a config may have ({})", origin, text.size(),
         max_toml_bytes);
  int line = 1, dots = 0;
  for (const char c : text) {
    if (c == '\n') ++line, dots = 0;
    if (c == '.' && ++dots > max_dots_in_line)
      fail(Exit::usage, "{}:{}: more than {} dots in one line", origin, line, max_dots_in_line);
  }
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& e) {
    fail(Exit::usage, "{}: {}", place(origin, e.source()), e.description());
  } catch (const Error& e) {
    fail(Exit::usage, "{}: {}", origin, e.what());
  }
}

void apply_override(const std::string& text, const std::vector<Field>& fields) {
  const auto equals = text.find('=');
  const std::string where = "--set " + text.substr(0, 256);
  if (equals == std::string::npos) fail(Exit::usage, "{}: expected table.key=value", where);
  const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
  const auto dot = name.find('.');
  const Field* field = dot == std::string::npos
                           ? nullptr
                           : find_field(fields, name.substr(0, dot), name.substr(dot + 1));
  if (!field) fail_unknown(where, name, fields);
  const bool bare = std::holds_alternative<std::string*>(field->value) && !value.starts_with('"') &&
                    !value.starts_with('\'');
  if (bare) return assign(where, *field, toml::value<std::string>(value));
  if (value.find_first_of("\r\n") != std::string::npos)
    fail(Exit::usage, "--set {}: a line break in the value", name);
  const auto table = parse_bounded("v = " + value, where);
  assign(where, *field, *table.get("v"));
}

/// A TOML basic string.
std::string basic_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string decimal(double value) {
  const auto text = fmt::format("{}", value);  // shortest that reads back the same
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

}  // namespace

std::string Field::name() const {
  return fmt::format("{}.{}", table, key);
}

std::string Field::type_name() const {
  static constexpr const char* names[] = {"string",  "integer",          "number",
                                          "boolean", "array of numbers", "array of strings"};
  if (!is_path) return names[value.index()];
  return std::holds_alternative<std::string*>(value) ? "string (path)" : "array of strings (paths)";
}

std::string Field::as_toml() const {
  const auto list = [](const auto& values, auto text_of) {
    std::vector<std::string> texts;
    for (const auto& v : values) texts.push_back(text_of(v));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  };
  return std::visit(Visitor{
                        [](std::string* v) { return basic_string(*v); },
                        [](std::int64_t* v) { return fmt::format("{}", *v); },
                        [](double* v) { return decimal(*v); },
                        [](bool* v) { return std::string(*v ? "true" : "false"); },
                        [&](std::vector<double>* v) { return list(*v, decimal); },
                        [&](std::vector<std::string>* v) { return list(*v, basic_string); },
                    },
                    value);
}

TrainConfig parse_train_config(std::string_view text, const std::string& origin,
                               std::span<const std::string> overrides) {
  TrainConfig config;
  const auto fields = describe(config);
  const auto table = parse_bounded(text, origin);
  for (const auto& [name, node] : table) apply_table(name, node, origin, fields);
  for (const auto& text_of : overrides) apply_override(text_of, fields);
  return config;
}

TrainConfig load_train_config(const std::string& path, std::span<const std::string> overrides) {
  std::string text;
  try {
    text = read_file(path, max_toml_bytes);
  } catch (const Error& e) {
    if (e.code() != Exit::data) throw;
    throw Error(Exit::usage, e.what());
  }
  return parse_train_config(text, path, overrides);
}

std::string to_toml(const TrainConfig& config, bool with_docs) {
  TrainConfig copy = config;
  const auto fields = describe(copy);
  std::string out;
  for (const auto& [table, doc] : config_tables()) {
    if (!out.empty()) out += "\n";
    if (with_docs) out += fmt::format("# {}\n", doc);
    out += fmt::format("[{}]\n", table);
    for (const auto& f : fields) {
      if (f.table != table) continue;
      if (with_docs) {
        out += fmt::format("# {}", f.doc);
        out += f.choices.empty() ? "\n" : fmt::format(" ({})\n", fmt::join(f.choices, " | "));
      }
      out += fmt::format("{} = {}\n", f.key, f.as_toml());
    }
  }
  return out;
}

std::string config_reference() {
  TrainConfig defaults;
  const auto fields = describe(defaults);
  std::string out =
      "# Keys of a training config\n\nMade by `strata config keys --markdown`. A key left out has "
      "its "
      "default; `--set table.key=value` sets any of them.\n";
  for (const auto& [table, doc] : config_tables()) {
    out += fmt::format("\n## [{}]: {}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
                       table, doc);
    for (const auto& f : fields) {
      if (f.table != table) continue;
      const auto type =
          f.choices.empty() ? f.type_name() : fmt::format("{}", fmt::join(f.choices, ", "));
      out += fmt::format("| `{}` | {} | `{}` | {} |\n", f.key, type, f.as_toml(), f.doc);
    }
  }
  out += "\n## Names from other trainers\n\n| there | here |\n|---|---|\n";
  for (const auto& [theirs, ours] : known_elsewhere)
    out += fmt::format("| `{}` | `{}` |\n", theirs, ours);
  return out;
}

std::string config_hash(const TrainConfig& config, Effect effect) {
  TrainConfig copy = config;
  std::string text;
  for (const auto& f : describe(copy))
    if (f.effect >= effect) text += fmt::format("{} = {}\n", f.name(), f.as_toml());
  return sha256_hex(text);
}

std::vector<std::string> config_differences(const TrainConfig& a, const TrainConfig& b,
                                            Effect effect) {
  TrainConfig left = a, right = b;
  const auto before = describe(left), after = describe(right);
  std::vector<std::string> out;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const auto from = before[i].as_toml(), to = after[i].as_toml();
    if (before[i].effect >= effect && from != to)
      out.push_back(fmt::format("{}: {} -> {}", before[i].name(), from, to));
  }
  return out;
}

}  // namespace strata
