#pragma once
// Command lines: Boost.Program_options with our exit codes and one style of --help.

#include <boost/program_options.hpp>
#include <iostream>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace strata::commands {

/// Parses one sub-command's options. Unknown or malformed options are Error(64).
class Options {
 public:
  /// usage: the line after "usage: strata "; example: one full command line.
  Options(std::string usage, std::string about, std::string example)
      : usage_(std::move(usage)),
        about_(std::move(about)),
        example_(std::move(example)),
        description_("options", 100, 60) {
    description_.add_options()("help,h", "show this text");
  }

  /// Chained as in Boost: `options.add()("name", value<...>(), "text")`.
  boost::program_options::options_description_easy_init add() { return description_.add_options(); }
  /// The next positional argument is option `name` (-1: all the rest).
  Options& positional(const char* name, int count = 1) {
    positional_.add(name, count);
    return *this;
  }

  /// False when --help was asked for and printed; the command then returns 0.
  bool parse(const std::vector<std::string>& arguments) {
    namespace po = boost::program_options;
    try {
      po::store(
          po::command_line_parser(arguments)
              .options(description_)
              .positional(positional_)
              .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
              .run(),
          values_);
      if (values_.count("help") != 0) {
        print_help();
        return false;
      }
      po::notify(values_);
    } catch (const po::error& e) {
      fail(Exit::usage, "{} (see strata {} --help)", e.what(), first_words(usage_));
    }
    return true;
  }

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  template <class T>
  const T& get(const std::string& name) const {
    if (!has(name))
      fail(Exit::usage, "option --{} is needed (see strata {} --help)", name, first_words(usage_));
    return values_[name].as<T>();
  }
  const std::string& text(const std::string& name) const { return get<std::string>(name); }
  bool flag(const std::string& name) const { return has(name) && values_[name].as<bool>(); }

 private:
  static std::string first_words(const std::string& usage) {
    const auto end = usage.find_first_of("-[<ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    const auto last = usage.find_last_not_of(' ', end == 0 ? 0 : end - 1);
    return usage.substr(0, last + 1);
  }
  void print_help() const {
    std::cout << "usage: strata " << usage_ << "\n\n"
              << about_ << "\n\n"
              << description_ << "\nexample:\n  " << example_ << "\n";
  }

  std::string usage_, about_, example_;
  boost::program_options::options_description description_;
  boost::program_options::positional_options_description positional_;
  boost::program_options::variables_map values_;
};

/// A switch: absent is false.
inline boost::program_options::typed_value<bool>* toggle() {
  return boost::program_options::bool_switch();
}

}  // namespace strata::commands
