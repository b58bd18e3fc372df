// `strata report`: scores and runs -> tables and one HTML page.

#include "evaluate/report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/log.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;
using Strings = std::vector<std::string>;

Strings list(const Options& options, const char* name) {
  return options.has(name) ? options.get<Strings>(name) : Strings{};
}

// "NAME=PATH" sets `part` of the arm NAME, which is added where it is new.
void set_parts(std::vector<ReportArm>& arms, const Options& options, const char* name,
               std::string ReportArm::*part) {
  for (const std::string& item : list(options, name)) {
    const std::size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == item.size())
      fail(Exit::usage, "--{} {}: wanted NAME=PATH", name, item);
    const std::string arm_name = item.substr(0, equals);
    auto arm = std::find_if(arms.begin(), arms.end(),
                            [&](const ReportArm& a) { return a.name == arm_name; });
    if (arm == arms.end()) arm = arms.insert(arms.end(), ReportArm{.name = arm_name});
    if (!((*arm).*part).empty()) fail(Exit::usage, "--{} {}: stands twice", name, arm_name);
    (*arm).*part = item.substr(equals + 1);
  }
}

nlohmann::ordered_json to_json(const Interval& interval) {
  return {{"mean", interval.mean},
          {"low", interval.low},
          {"high", interval.high},
          {"count", interval.count}};
}

void print_json(const Report& report) {
  nlohmann::ordered_json document{{"arms", nlohmann::json::array()},
                                  {"comparisons", nlohmann::json::array()}};
  for (const auto& arm : report.arms) {
    if (!arm.summary) continue;
    nlohmann::ordered_json skills = nlohmann::ordered_json::object();
    for (const auto& [skill, interval] : arm.summary->skills) skills[skill] = to_json(interval);
    document["arms"].push_back({{"name", arm.arm.name},
                                {"score", to_json(arm.summary->overall)},
                                {"all_facts_hold", to_json(arm.summary->all_facts_hold)},
                                {"skills", skills}});
  }
  for (const auto& comparison : report.comparisons)
    document["comparisons"].push_back({{"first", comparison.first},
                                       {"second", comparison.second},
                                       {"difference", to_json(comparison.difference.overall)}});
  std::cout << document.dump() << "\n";
}

ReportInputs report_inputs(const Options& options) {
  ReportInputs inputs;
  inputs.title = options.text("title");
  inputs.notes = list(options, "note");
  set_parts(inputs.arms, options, "scores", &ReportArm::scores);
  set_parts(inputs.arms, options, "images", &ReportArm::images);
  set_parts(inputs.arms, options, "run", &ReportArm::run);
  if (inputs.arms.empty()) fail(Exit::usage, "report: give --scores or --run");
  for (const std::string& pair : list(options, "compare")) {
    const std::size_t comma = pair.find(',');
    if (comma == std::string::npos) fail(Exit::usage, "--compare {}: wanted A,B", pair);
    inputs.comparisons.emplace_back(pair.substr(0, comma), pair.substr(comma + 1));
  }
  inputs.examples = options.get<int>("examples");
  if (inputs.examples < 0 || inputs.examples > 1000)
    fail(Exit::usage, "--examples {}", inputs.examples);
  inputs.bootstrap.resamples = options.get<int>("resamples");
  if (inputs.bootstrap.resamples < 100 || inputs.bootstrap.resamples > 1'000'000)
    fail(Exit::usage, "--resamples {}: not in 100..1000000", inputs.bootstrap.resamples);
  inputs.bootstrap.seed = options.get<std::uint64_t>("seed");
  return inputs;
}

}  // namespace

int report(const Arguments& arguments, Communicator&) {
  Options options("report --scores NAME=FILE ... --out DIR",
                  "Tables (scores.md, scores.csv, scores.tex) and one self-contained page "
                  "(report.html) of a study.\nNAME is an arm; its --scores, --images and --run go "
                  "together.",
                  "strata report --scores right=right.jsonl --images right=images "
                  "--run right=run --scores shuffled=shuffled.jsonl --compare right,shuffled "
                  "--out report");
  options.add()("scores", po::value<Strings>(), "NAME=FILE of strata score")(
      "images", po::value<Strings>(), "NAME=DIR of strata sample, for the contact sheet")(
      "run", po::value<Strings>(), "NAME=DIR of strata train, for the curves")(
      "compare", po::value<Strings>(), "A,B: the paired difference A - B of two arms' scores")(
      "out", po::value<std::string>(), "folder to write")(
      "title", po::value<std::string>()->default_value("Strata report"), "of the page")(
      "note", po::value<Strings>(), "a paragraph under the title")(
      "examples", po::value<int>()->default_value(24), "prompts of the contact sheet")(
      "resamples", po::value<int>()->default_value(10000), "of the bootstrap")(
      "seed", po::value<std::uint64_t>()->default_value(17), "of the bootstrap")(
      "json", toggle(), "print the means and intervals as JSON");
  if (!options.parse(arguments)) return 0;
  const std::string& out = options.text("out");
  const Report result = make_report(report_inputs(options));
  write_report(result, out);
  if (options.flag("json")) print_json(result);
  log::info("{}/report.html", out);
  return 0;
}

}  // namespace strata::commands
