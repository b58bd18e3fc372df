#include "evaluate/report.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "evaluate/png.hpp"

namespace strata {

namespace {

constexpr std::uint64_t max_image_bytes = std::uint64_t{64} << 20;

const ArmReport& arm_named(const Report& report, const std::string& name) {
  for (const auto& arm : report.arms)
    if (arm.arm.name == name && arm.summary) return arm;
  fail(Exit::usage, "--compare: \"{}\" is no arm with scores", name);
}

// Prompts for the contact sheet: skill by skill in turn, so that each is shown.
std::vector<std::string> example_ids(const std::vector<PromptScore>& prompts, int count) {
  std::map<std::string, std::vector<std::string>> by_skill;
  for (const auto& prompt : prompts)
    by_skill[prompt.skills.empty() ? "" : prompt.skills.front()].push_back(prompt.id);
  std::vector<std::string> ids;
  for (std::size_t turn = 0; static_cast<int>(ids.size()) < count; ++turn) {
    const std::size_t before = ids.size();
    for (const auto& [skill, of_skill] : by_skill)
      if (turn < of_skill.size() && static_cast<int>(ids.size()) < count)
        ids.push_back(of_skill[turn]);
    if (ids.size() == before) break;
  }
  return ids;
}

void add_picture(Example& example, std::size_t arm, const ReportArm& files,
                 const ScoreRecord& record) {
  const std::string path = files.images + "/" + image_file_name(record.id, 0);
  if (record.mismatched || !file_exists(path)) return;
  const DecodedPng png = decode_png(read_file(path, max_image_bytes), path);
  example.prompt = record.prompt;
  example.skills = record.skills;
  example.pictures.push_back(
      {arm, encode_png(png.image), png.image.width, record.score, record.all_facts_hold});
}

std::vector<Example> collect_examples(const Report& report, int count) {
  std::vector<Example> examples;
  const auto shown = std::find_if(report.arms.begin(), report.arms.end(), [](const auto& arm) {
    return !arm.arm.images.empty() && arm.summary;
  });
  if (shown == report.arms.end()) return examples;
  for (const std::string& id : example_ids(by_prompt(shown->records), count)) {
    Example example;
    for (std::size_t arm = 0; arm < report.arms.size(); ++arm) {
      const auto& records = report.arms[arm].records;
      const auto record = std::find_if(records.begin(), records.end(),
                                       [&](const ScoreRecord& r) { return r.id == id; });
      if (record != records.end() && !report.arms[arm].arm.images.empty())
        add_picture(example, arm, report.arms[arm].arm, *record);
    }
    if (!example.pictures.empty()) examples.push_back(std::move(example));
  }
  return examples;
}

}  // namespace

Report make_report(const ReportInputs& inputs) {
  Report report{.title = inputs.title, .notes = inputs.notes, .bootstrap = inputs.bootstrap};
  std::set<std::string> names;
  for (const ReportArm& arm : inputs.arms) {
    STRATA_CHECK(names.insert(arm.name).second, "arm {} twice", arm.name);
    ArmReport result{.arm = arm};
    if (!arm.scores.empty()) {
      result.records = read_scores(arm.scores);
      result.summary = summarise(result.records, inputs.bootstrap);
    }
    if (!arm.run.empty()) {
      result.curves = read_curves(arm.run);
      if (!result.curves) fail(Exit::data, "{}/metrics.jsonl: no such file", arm.run);
    }
    report.arms.push_back(std::move(result));
  }
  for (const auto& [first, second] : inputs.comparisons)
    report.comparisons.push_back({first, second,
                                  compare(arm_named(report, first).records,
                                          arm_named(report, second).records, inputs.bootstrap)});
  report.examples = collect_examples(report, inputs.examples);
  return report;
}

void write_report(const Report& report, const std::string& out) {
  make_directories(out);
  write_file_atomically(out + "/scores.md", report_markdown(report));
  write_file_atomically(out + "/scores.csv", report_csv(report));
  write_file_atomically(out + "/scores.tex", report_latex(report));
  write_file_atomically(out + "/report.html", report_html(report));
}

const Interval* find_skill(const std::vector<std::pair<std::string, Interval>>& skills,
                           const std::string& skill) {
  for (const auto& [name, interval] : skills)
    if (name == skill) return &interval;
  return nullptr;
}

std::vector<std::string> all_skills(const Report& report) {
  std::vector<std::string> skills;
  for (const auto& arm : report.arms) {
    if (!arm.summary) continue;
    for (const auto& [skill, interval] : arm.summary->skills)
      if (std::find(skills.begin(), skills.end(), skill) == skills.end()) skills.push_back(skill);
  }
  return skills;
}

}  // namespace strata
