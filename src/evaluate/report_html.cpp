// The report page: one file, no script, no external resource, readable in light and dark.

#include <algorithm>
#include <cmath>

#include "evaluate/base64.hpp"
#include "evaluate/report.hpp"
#include "evaluate/report_style.hpp"
#include "evaluate/svg.hpp"

namespace strata {

namespace {

using svg::escape;

constexpr int colours = 6;

int colour_of(std::size_t arm) {
  return static_cast<int>(arm % colours);
}

std::string swatch(std::size_t arm) {
  return fmt::format("<i class='swatch s{}'></i>", colour_of(arm));
}

std::string interval_text(const Interval& interval, const char* format = "{:.3f}") {
  const auto number = [&](double v) { return fmt::format(fmt::runtime(format), v); };
  return fmt::format("{} <small>[{}, {}]</small>", number(interval.mean), number(interval.low),
                     number(interval.high));
}

std::string legend(const Report& report, bool (*shown)(const ArmReport&)) {
  std::string html = "<p class=legend>";
  for (std::size_t i = 0; i < report.arms.size(); ++i)
    if (shown(report.arms[i]))
      html += fmt::format("<span>{}{}</span>", swatch(i), escape(report.arms[i].arm.name));
  return html + "</p>";
}

bool is_scored(const ArmReport& arm) {
  return arm.summary.has_value();
}
bool has_curves(const ArmReport& arm) {
  return arm.curves.has_value();
}
bool has_pictures(const ArmReport& arm) {
  return is_scored(arm) && !arm.arm.images.empty();
}

std::string cards(const Report& report) {
  std::string html = "<div class=cards>";
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const auto& arm = report.arms[i];
    if (!arm.summary) continue;
    const Interval& score = arm.summary->overall;
    html += fmt::format(
        "<div class='card s{}'><h3>{}</h3><p class=big>{:.3f}</p>"
        "<p>95&thinsp;% interval {:.3f} to {:.3f}</p>"
        "<p>every fact holds in {:.1f}&thinsp;% of pictures</p><p class=quiet>{} prompts, {} "
        "pictures</p></div>",
        colour_of(i), escape(arm.arm.name), score.mean, score.low, score.high,
        100 * arm.summary->all_facts_hold.mean, score.count, arm.summary->images);
  }
  return html + "</div>";
}

std::string verdict(const Interval& difference) {
  if (difference.low > 0) return "above zero";
  if (difference.high < 0) return "below zero";
  return "zero lies inside";
}

std::string comparisons(const Report& report) {
  if (report.comparisons.empty()) return "";
  std::string html =
      "<section><h2>Differences</h2><p class=quiet>Paired by prompt: both arms answered the same "
      "prompts, so what a prompt adds to both cancels.</p><div class=scroll><table><thead><tr>"
      "<th>first minus second</th><th class=n>mean</th><th class=n>95&thinsp;% interval</th>"
      "<th class=n>prompts</th><th>interval</th></tr></thead><tbody>";
  double reach = 0.05;
  std::vector<svg::IntervalRow> rows;
  for (const auto& comparison : report.comparisons) {
    const Interval& d = comparison.difference.overall;
    html += fmt::format(
        "<tr><td>{} &minus; {}</td><td class=n><b>{:+.3f}</b></td><td class=n>{:+.3f} to "
        "{:+.3f}</td><td class=n>{}</td><td>{}</td></tr>",
        escape(comparison.first), escape(comparison.second), d.mean, d.low, d.high, d.count,
        verdict(d));
  }
  html += "</tbody></table></div>";
  const Difference& first = report.comparisons.front().difference;
  rows.push_back({"all prompts", {&first.overall}});
  for (const auto& [skill, interval] : first.skills)
    rows.push_back({skill_label(skill), {&interval}});
  for (const auto& row : rows)
    reach = std::max({reach, std::abs(row.intervals[0]->low), std::abs(row.intervals[0]->high)});
  reach = std::min(1.0, std::ceil(reach * 10) / 10);
  const bool one_sided = std::all_of(rows.begin(), rows.end(), [](const svg::IntervalRow& row) {
    return row.intervals[0]->low > -0.05;
  });
  html += fmt::format("<figure>{}<figcaption>{} minus {}, by skill</figcaption></figure></section>",
                      svg::interval_chart(rows, {0}, one_sided ? -0.05 : -reach, reach),
                      escape(report.comparisons.front().first),
                      escape(report.comparisons.front().second));
  return html;
}

std::string skill_table(const Report& report) {
  const auto skills = all_skills(report);
  if (skills.empty()) return "";
  std::string html = "<section><h2>By skill</h2>" + legend(report, is_scored) +
                     "<div class=scroll><table><thead><tr><th>skill</th><th class=n>prompts</th>";
  std::vector<int> series;
  std::vector<const ScoreSummary*> summaries;
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    if (!report.arms[i].summary) continue;
    html += fmt::format("<th class=n>{}{}</th>", swatch(i), escape(report.arms[i].arm.name));
    series.push_back(colour_of(i));
    summaries.push_back(&*report.arms[i].summary);
  }
  html += "</tr></thead><tbody>";
  std::vector<svg::IntervalRow> rows;
  for (const auto& skill : skills) {
    svg::IntervalRow row{skill_label(skill), {}};
    std::int64_t prompts = 0;
    std::string cells;
    for (const auto* summary : summaries) {
      const Interval* interval = find_skill(summary->skills, skill);
      row.intervals.push_back(interval);
      if (interval) prompts = std::max(prompts, interval->count);
      cells += fmt::format("<td class=n>{}</td>", interval ? interval_text(*interval) : "");
    }
    html +=
        fmt::format("<tr><td>{}</td><td class=n>{}</td>{}</tr>", escape(row.label), prompts, cells);
    rows.push_back(std::move(row));
  }
  html += "<tr class=total><td>average over prompts</td><td class=n></td>";
  for (const auto* summary : summaries)
    html += fmt::format("<td class=n>{}</td>", interval_text(summary->overall));
  html +=
      "</tr></tbody></table></div><p class=quiet>A prompt with several skills counts in each of "
      "them, and once in the average.</p>";
  return html + "<figure>" + svg::interval_chart(rows, series, 0, 1) +
         "<figcaption>mean score and 95&thinsp;% interval</figcaption></figure></section>";
}

std::string picture(const Report& report, const ExamplePicture& picture) {
  return fmt::format(
      "<span class='shot s{}'><img{} alt='picture of {}' src='data:image/png;base64,{}'>"
      "<span class='score{}'>{:.2f}</span></span>",
      colour_of(picture.arm), picture.width <= 64 ? " class=small" : "",
      escape(report.arms[picture.arm].arm.name), base64(picture.png),
      picture.all_facts_hold ? " whole" : "", picture.score);
}

std::string contact_sheet(const Report& report) {
  if (report.examples.empty()) return "";
  std::string html =
      "<section><h2>Pictures</h2>" + legend(report, has_pictures) +
      "<p class=quiet>The first prompts of every skill in turn, not chosen by score. Under each "
      "picture its score, filled where every fact of the prompt holds.</p>"
      "<div class=sheet>";
  for (const auto& example : report.examples) {
    html += "<figure class=example><div class=shots>";
    for (const auto& shown : example.pictures) html += picture(report, shown);
    html += fmt::format("</div><figcaption>{}", escape(example.prompt));
    if (!example.skills.empty())
      html += fmt::format(" <small>{}</small>", escape(skill_label(example.skills.front())));
    html += "</figcaption></figure>";
  }
  return html + "</div></section>";
}

// Means over equal groups of records: at most `points` of them.
std::vector<CurvePoint> thinned(const std::vector<CurvePoint>& curve, std::size_t points) {
  const std::size_t group = (curve.size() + points - 1) / points;
  if (group <= 1) return curve;
  std::vector<CurvePoint> means;
  for (std::size_t begin = 0; begin < curve.size(); begin += group) {
    const std::size_t end = std::min(begin + group, curve.size());
    CurvePoint mean;
    for (std::size_t i = begin; i < end; ++i) {
      mean.x += curve[i].x / static_cast<double>(end - begin);
      mean.y += curve[i].y / static_cast<double>(end - begin);
    }
    means.push_back(mean);
  }
  return means;
}

std::string run_table(const Report& report) {
  std::string html =
      "<div class=scroll><table><thead><tr><th>run</th><th class=n>steps</th><th class=n>pictures "
      "seen</th><th class=n>hours</th><th class=n>pictures/s</th><th class=n>last validation "
      "loss</th><th class=n>by timestep quarter, low noise first</th></tr></thead><tbody>";
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    if (!report.arms[i].curves) continue;
    const RunCurves& run = *report.arms[i].curves;
    std::string quartiles;
    if (run.quartiles)
      for (const double loss : *run.quartiles)
        quartiles += fmt::format("{}{:.4f}", quartiles.empty() ? "" : " &middot; ", loss);
    html += fmt::format(
        "<tr><td>{}{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{:.2f}</td><td "
        "class=n>{:.0f}</td><td class=n>{}</td><td class=n>{}</td></tr>",
        swatch(i), escape(report.arms[i].arm.name), run.steps, run.samples, run.hours,
        run.images_per_s,
        run.validation.empty() ? "" : fmt::format("{:.4f}", run.validation.back().y), quartiles);
  }
  return html + "</tbody></table></div>";
}

std::string training(const Report& report) {
  if (std::none_of(report.arms.begin(), report.arms.end(), has_curves)) return "";
  std::vector<svg::Series> loss, validation;
  std::string configs;
  for (std::size_t i = 0; i < report.arms.size(); ++i) {
    const auto& arm = report.arms[i];
    if (!arm.curves) continue;
    loss.push_back({arm.arm.name, colour_of(i), false, thinned(arm.curves->loss, 240)});
    validation.push_back({arm.arm.name, colour_of(i), true, arm.curves->validation});
    if (!arm.curves->config.empty())
      configs += fmt::format("<details><summary>config of {}</summary><pre>{}</pre></details>",
                             escape(arm.arm.name), escape(arm.curves->config));
  }
  std::string html = "<section><h2>Training</h2>" + legend(report, has_curves) + run_table(report);
  html += "<figure>" + svg::line_chart(loss, "step", "training loss") +
          "<figcaption>Mean squared error of the noise; each point is the mean of neighbouring "
          "records.</figcaption></figure>";
  const std::string chart = svg::line_chart(validation, "step", "validation loss");
  if (!chart.empty())
    html +=
        "<figure>" + chart +
        "<figcaption>The same on held-out pictures, with fixed noise and timesteps.</figcaption>"
        "</figure>";
  return html + configs + "</section>";
}

}  // namespace

std::string report_html(const Report& report) {
  std::string html = fmt::format(
      "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport "
      "content='width=device-width, initial-scale=1'><title>{0}</title><style>{1}</style></head>"
      "<body><main><header><h1>{0}</h1>",
      escape(report.title), report_style);
  for (const auto& note : report.notes) html += fmt::format("<p>{}</p>", escape(note));
  html += "</header>";
  if (std::any_of(report.arms.begin(), report.arms.end(), is_scored))
    html += "<section><h2>Scores</h2>" + cards(report) + "</section>";
  html += comparisons(report) + contact_sheet(report) + skill_table(report) + training(report);
  html += fmt::format(
      "<footer><p>Averages are means over prompts, not over skills; several pictures of a prompt "
      "count as one. Intervals: percentile bootstrap over prompts, {} resamples, seed {}; the same "
      "input gives the same page.</p></footer></main></body></html>\n",
      report.bootstrap.resamples, report.bootstrap.seed);
  return html;
}

}  // namespace strata
