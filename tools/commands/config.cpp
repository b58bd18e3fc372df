// strata config: show, validate, diff, keys.

#include "train/config.hpp"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/log.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;

std::vector<std::string> overrides_of(const Options& options) {
  return options.has("set") ? options.get<std::vector<std::string>>("set")
                            : std::vector<std::string>{};
}

int show(const Arguments& arguments) {
  Options options("config show FILE", "Prints the resolved config: every key, defaults included.",
                  "strata config show configs/recipe/sd2-256.toml --set train.lr=2e-4");
  options.add()("config", po::value<std::string>(), "TOML file")(
      "set", po::value<std::vector<std::string>>()->composing(), "table.key=value, repeatable")(
      "docs", toggle(), "each key's documentation above it");
  if (!options.positional("config").parse(arguments)) return 0;
  const auto config = load_train_config(options.text("config"), overrides_of(options));
  fmt::print("{}", to_toml(config, options.flag("docs")));
  return 0;
}

int check(const Arguments& arguments) {
  Options options("config validate FILE", "Checks a config without looking at the data it names.",
                  "strata config validate configs/recipe/sd2-256.toml --ranks 32");
  options.add()("config", po::value<std::string>(), "TOML file")(
      "set", po::value<std::vector<std::string>>()->composing(), "table.key=value, repeatable")(
      "ranks", po::value<int>()->default_value(0), "also check the batch for so many ranks");
  if (!options.positional("config").parse(arguments)) return 0;
  const auto& path = options.text("config");
  if (options.get<int>("ranks") < 0) fail(Exit::usage, "--ranks: negative");
  const auto config = load_train_config(path, overrides_of(options));
  validate(config, options.get<int>("ranks"));
  log::info("{}: valid, hash {}", path, config_hash(config));
  return 0;
}

int diff(const Arguments& arguments) {
  Options options("config diff A B", "Prints the keys in which two configs differ; 0 lines: none.",
                  "strata config diff runs/a/config.toml runs/b/config.toml");
  options.add()("files", po::value<std::vector<std::string>>(), "two TOML files");
  if (!options.positional("files", -1).parse(arguments)) return 0;
  const auto files = options.get<std::vector<std::string>>("files");
  if (files.size() != 2)
    fail(Exit::usage, "config diff: two files expected, there are {}", files.size());
  for (const auto& line :
       config_differences(load_train_config(files[0]), load_train_config(files[1])))
    fmt::print("{}\n", line);
  return 0;
}

int keys(const Arguments& arguments) {
  Options options("config keys", "Lists every key with its type, default and meaning.",
                  "strata config keys --json");
  options.add()("json", toggle(), "as a JSON array")("markdown", toggle(), "as docs/config.md");
  if (!options.parse(arguments)) return 0;
  if (options.flag("markdown")) {
    fmt::print("{}", config_reference());
    return 0;
  }
  TrainConfig defaults;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const auto& f : describe(defaults)) {
    if (options.flag("json")) {
      all.push_back({{"key", f.name()},
                     {"type", f.type_name()},
                     {"default", f.as_toml()},
                     {"choices", f.choices},
                     {"doc", f.doc}});
      continue;
    }
    fmt::print("{:<28}{:<25}{:<16}{}\n", f.name(), f.type_name(), f.as_toml(), f.doc);
  }
  if (options.flag("json")) fmt::print("{}\n", all.dump(2));
  return 0;
}

}  // namespace

int config(const Arguments& arguments, Communicator&) {
  const std::string action = arguments.empty() ? "" : arguments[0];
  const Arguments rest(arguments.empty() ? arguments.end() : arguments.begin() + 1,
                       arguments.end());
  if (action == "show") return show(rest);
  if (action == "validate") return check(rest);
  if (action == "diff") return diff(rest);
  if (action == "keys") return keys(rest);
  if (action == "--help" || action == "-h") {
    fmt::print(
        "usage: strata config show|validate|diff|keys [options]\n\n"
        "Looks at a training config (TOML) without running it.\n\nexample:\n"
        "  strata config show configs/recipe/sd2-256.toml --set train.lr=2e-4\n");
    return 0;
  }
  fail(Exit::usage, "config: expected show, validate, diff or keys, found '{}'", action);
}

}  // namespace strata::commands
