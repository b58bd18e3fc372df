// The same numbers as Markdown, CSV and LaTeX.

#include <algorithm>

#include "evaluate/report.hpp"

namespace strata {

namespace {

std::string cell(const Interval* interval) {
  if (!interval) return "";
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", interval->mean, interval->low, interval->high);
}

std::string escape_markdown(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '|' || c == '\\' || c == '*' || c == '_' || c == '<') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string escape_latex(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("&%$#_{}").find(c) != std::string_view::npos) out += '\\';
    if (c == '\\')
      out += "\\textbackslash{}";
    else if (c == '~')
      out += "\\textasciitilde{}";
    else if (c == '^')
      out += "\\textasciicircum{}";
    else
      out += c;
  }
  return out;
}

std::string escape_csv(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::vector<const ArmReport*> scored_arms(const Report& report) {
  std::vector<const ArmReport*> arms;
  for (const auto& arm : report.arms)
    if (arm.summary) arms.push_back(&arm);
  return arms;
}

struct Row {
  std::string label;
  std::vector<const Interval*> cells;  // one an arm
};

std::vector<Row> score_rows(const Report& report) {
  const auto arms = scored_arms(report);
  Row average{"average over prompts", {}}, whole{"all facts hold", {}};
  for (const auto* arm : arms) {
    average.cells.push_back(&arm->summary->overall);
    whole.cells.push_back(&arm->summary->all_facts_hold);
  }
  std::vector<Row> rows{average, whole};
  for (const auto& skill : all_skills(report)) {
    Row row{skill_label(skill), {}};
    for (const auto* arm : arms) row.cells.push_back(find_skill(arm->summary->skills, skill));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

std::string report_markdown(const Report& report) {
  std::string text = fmt::format("# {}\n\n", escape_markdown(report.title));
  for (const auto& note : report.notes) text += escape_markdown(note) + "\n\n";
  const auto arms = scored_arms(report);
  if (!arms.empty()) {
    std::string header = "| |", rule = "|---|";
    for (const auto* arm : arms) {
      header += fmt::format(" {} |", escape_markdown(arm->arm.name));
      rule += "---|";
    }
    text += header + "\n" + rule + "\n";
    for (const auto& row : score_rows(report)) {
      text += fmt::format("| {} |", escape_markdown(row.label));
      for (const auto* interval : row.cells) text += fmt::format(" {} |", cell(interval));
      text += "\n";
    }
    text += "\nMean score with its 95 % bootstrap interval over prompts.\n";
  }
  if (!report.comparisons.empty()) {
    text += "\n| difference | mean | 95 % interval | prompts |\n|---|---|---|---|\n";
    for (const auto& comparison : report.comparisons) {
      const Interval& d = comparison.difference.overall;
      text += fmt::format("| {} - {} | {:+.3f} | [{:+.3f}, {:+.3f}] | {} |\n",
                          escape_markdown(comparison.first), escape_markdown(comparison.second),
                          d.mean, d.low, d.high, d.count);
    }
  }
  return text;
}

std::string report_csv(const Report& report) {
  std::string text = "table,arm,row,mean,low,high,prompts\n";
  const auto line = [&](const char* table, const std::string& arm, const std::string& row,
                        const Interval& i) {
    text += fmt::format("{},{},{},{},{},{},{}\n", table, escape_csv(arm), escape_csv(row), i.mean,
                        i.low, i.high, i.count);
  };
  for (const auto* arm : scored_arms(report)) {
    line("score", arm->arm.name, "average", arm->summary->overall);
    line("score", arm->arm.name, "all_facts_hold", arm->summary->all_facts_hold);
    for (const auto& [skill, interval] : arm->summary->skills)
      line("score", arm->arm.name, skill, interval);
  }
  for (const auto& comparison : report.comparisons) {
    const std::string name = comparison.first + " - " + comparison.second;
    line("difference", name, "average", comparison.difference.overall);
    for (const auto& [skill, interval] : comparison.difference.skills)
      line("difference", name, skill, interval);
  }
  return text;
}

std::string report_latex(const Report& report) {
  const auto arms = scored_arms(report);
  std::string text = "% needs \\usepackage{booktabs}\n\\begin{tabular}{l" +
                     std::string(arms.size(), 'c') + "}\n\\toprule\n";
  for (const auto* arm : arms) text += " & " + escape_latex(arm->arm.name);
  text += " \\\\\n\\midrule\n";
  for (const auto& row : score_rows(report)) {
    text += escape_latex(row.label);
    for (const auto* interval : row.cells)
      text += interval ? fmt::format(" & {:.3f} {{\\scriptsize [{:.3f}, {:.3f}]}}", interval->mean,
                                     interval->low, interval->high)
                       : std::string(" & ");
    text += " \\\\\n";
  }
  text += "\\bottomrule\n\\end{tabular}\n";
  for (const auto& comparison : report.comparisons) {
    const Interval& d = comparison.difference.overall;
    text += fmt::format("% {} - {}: {:+.3f} [{:+.3f}, {:+.3f}] over {} prompts\n", comparison.first,
                        comparison.second, d.mean, d.low, d.high, d.count);
  }
  return text;
}

}  // namespace strata
