#pragma once
// What a study found, for people: tables in three formats and one HTML page that needs nothing
// else.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evaluate/summary.hpp"

namespace strata {

/// One arm of a study: a model, or a control such as shuffled captions. Every part may be missing.
struct ReportArm {
  std::string name;
  std::string scores;  // file of `strata score`
  std::string images;  // folder of `strata sample`, for the contact sheet
  std::string run;     // folder of `strata train`, for the curves
};

struct ReportInputs {
  std::string title = "Strata report";
  std::vector<std::string> notes;                                // paragraphs under the title
  std::vector<ReportArm> arms;                                   // unique names, in the order shown
  std::vector<std::pair<std::string, std::string>> comparisons;  // names: first minus second
  int examples = 24;                                             // prompts of the contact sheet
  BootstrapOptions bootstrap;
};

struct CurvePoint {
  double x = 0, y = 0;
};

struct RunCurves {
  std::vector<CurvePoint> loss, validation;        // over steps
  std::optional<std::array<double, 4>> quartiles;  // of the last validation, low noise first
  std::int64_t steps = 0, samples = 0;
  double images_per_s = 0;  // median over the records
  double hours = 0;         // of the steps recorded
  std::string config;       // config.toml, empty where there is none
};

struct ArmReport {
  ReportArm arm;
  std::vector<ScoreRecord> records;
  std::optional<ScoreSummary> summary;
  std::optional<RunCurves> curves;
};

struct ComparisonReport {
  std::string first, second;
  Difference difference;
};

/// A picture of one arm, with its score.
struct ExamplePicture {
  std::size_t arm = 0;
  std::string png;  // bytes
  int width = 0;
  double score = 0;
  bool all_facts_hold = false;
};

struct Example {
  std::string prompt;
  std::vector<std::string> skills;
  std::vector<ExamplePicture> pictures;
};

struct Report {
  std::string title;
  std::vector<std::string> notes;
  std::vector<ArmReport> arms;
  std::vector<ComparisonReport> comparisons;
  std::vector<Example> examples;
  BootstrapOptions bootstrap;
};

/// Reads everything. Error(64) for an unknown name in a comparison, Error(65) for broken files.
Report make_report(const ReportInputs& inputs);

/// out/report.html, scores.md, scores.csv, scores.tex.
void write_report(const Report& report, const std::string& out);

std::string report_html(const Report& report);
std::string report_markdown(const Report& report);
std::string report_csv(const Report& report);
std::string report_latex(const Report& report);

/// metrics.jsonl and validation.jsonl of a run; the later record of a step holds. nullopt where the
/// folder has no metrics.jsonl.
std::optional<RunCurves> read_curves(const std::string& run);

/// All skills of all arms, in table order.
std::vector<std::string> all_skills(const Report& report);
/// The interval of a skill, nullptr where there is none.
const Interval* find_skill(const std::vector<std::pair<std::string, Interval>>& skills,
                           const std::string& skill);

}  // namespace strata
