#include "evaluate/svg.hpp"

#include <algorithm>
#include <cmath>

namespace strata::svg {

namespace {

// Of a file of its own. Plain colours: programs that are no browsers know no CSS variables.
constexpr const char* file_style =
    ".label { fill: #1d1f24; font-size: 13px; } .tick { fill: #62666f; font-size: 12px; } "
    ".bar { fill: #1769aa; }";

// About five round numbers that cover [low, high]: multiples of 1, 2 or 5 times a power of ten.
std::vector<double> ticks(double low, double high) {
  const double raw = (high - low) / 5, power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double candidate : {1.0, 2.0, 5.0})
    if (candidate * power >= raw * 0.999) {
      step = candidate * power;
      break;
    }
  std::vector<double> values;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    values.push_back(i * step == 0 ? 0.0 : i * step);
  return values;
}

std::string tick_label(double value) {
  if (std::abs(value) >= 10000) return fmt::format("{:g}k", value / 1000);
  return fmt::format("{:g}", std::round(value * 1e6) / 1e6);
}

// A value range mapped to pixels.
struct Axis {
  double low, high, from, to;
  double at(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

struct Range {
  double low = 0, high = 1;
};

Range x_range(const std::vector<Series>& series) {
  Range range{1e300, -1e300};
  for (const auto& s : series)
    for (const auto& p : s.points) {
      range.low = std::min(range.low, p.x);
      range.high = std::max(range.high, p.x);
    }
  if (!(range.low < range.high)) range = {range.low - 1, range.low + 1};
  return range;
}

Range y_range(const std::vector<Series>& series) {
  std::vector<double> values;
  for (const auto& s : series)
    for (const auto& p : s.points) values.push_back(p.y);
  std::sort(values.begin(), values.end());
  const double low = values.front(), high = quantile(values, 0.98);
  const double margin = high > low ? 0.06 * (high - low) : 0.5 * std::max(std::abs(low), 1e-9);
  return {low - margin, high + margin};
}

std::string axes(const Axis& x, const Axis& y, const std::string& x_label,
                 const std::string& y_label) {
  std::string svg;
  for (const double v : ticks(y.low, y.high))
    svg += fmt::format(
        "<line class=grid x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} /><text class=tick x={:.1f} "
        "y={:.1f} text-anchor=end>{}</text>",
        x.from, x.to, y.at(v), y.at(v), x.from - 8, y.at(v) + 4, tick_label(v));
  for (const double v : ticks(x.low, x.high))
    svg += fmt::format("<text class=tick x={:.1f} y={:.1f} text-anchor=middle>{}</text>", x.at(v),
                       y.from + 18, tick_label(v));
  svg += fmt::format("<line class=axis x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} />", x.from, x.to,
                     y.from, y.from);
  svg += fmt::format("<text class=tick x={:.1f} y={:.1f} text-anchor=end>{}</text>", x.to,
                     y.from + 36, escape(x_label));
  svg += fmt::format("<text class=tick x={:.1f} y={:.1f}>{}</text>", x.from, y.to - 8,
                     escape(y_label));
  return svg;
}

std::string draw(const Series& series, const Axis& x, const Axis& y) {
  std::string path, dots;
  for (const auto& p : series.points) {
    const double px = x.at(p.x), py = std::max(y.at(p.y), y.to);
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px, py);
    if (series.markers)
      dots +=
          fmt::format("<circle class='dot s{}' cx={:.1f} cy={:.1f} r=3 />", series.colour, px, py);
  }
  return fmt::format("<path class='{} s{}' d='{}' />", series.markers ? "dashed" : "line",
                     series.colour, path) +
         dots;
}

}  // namespace

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string line_chart(const std::vector<Series>& series, const std::string& x_label,
                       const std::string& y_label) {
  std::vector<Series> drawn;
  for (const auto& s : series)
    if (!s.points.empty()) drawn.push_back(s);
  if (drawn.empty()) return "";
  constexpr double width = 720, height = 320;
  const Range xs = x_range(drawn), ys = y_range(drawn);
  const Axis x{xs.low, xs.high, 64, width - 16}, y{ys.low, ys.high, height - 48, 28};
  std::string svg =
      fmt::format("<svg class=chart viewBox='0 0 {:.0f} {:.0f}' role=img aria-label='{} over {}'>",
                  width, height, escape(y_label), escape(x_label));
  svg += axes(x, y, x_label, y_label);
  for (const auto& s : drawn) svg += draw(s, x, y);
  return svg + "</svg>";
}

std::string interval_chart(const std::vector<IntervalRow>& rows, const std::vector<int>& colours,
                           double low, double high) {
  const auto series = static_cast<double>(colours.size());
  const double gap = 9, row_height = std::max(24.0, gap * series + 12), top = 8, left = 150;
  const double width = 720, height = top + row_height * static_cast<double>(rows.size()) + 30;
  const Axis x{low, high, left, width - 20};
  std::string svg = fmt::format(
      "<svg class=chart viewBox='0 0 {:.0f} {:.0f}' role=img aria-label='means with intervals'>",
      width, height);
  const double bottom = height - 30;
  for (const double v : ticks(low, high))
    svg += fmt::format(
        "<line class={} x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} /><text class=tick x={:.1f} "
        "y={:.1f} text-anchor=middle>{}</text>",
        v == 0 ? "axis" : "grid", x.at(v), x.at(v), top, bottom, x.at(v), bottom + 18,
        tick_label(v));
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const double centre = top + row_height * (static_cast<double>(r) + 0.5);
    svg += fmt::format("<text class=label x={:.1f} y={:.1f} text-anchor=end>{}</text>", left - 12,
                       centre + 4, escape(rows[r].label));
    for (std::size_t s = 0; s < rows[r].intervals.size(); ++s) {
      const Interval* interval = rows[r].intervals[s];
      if (!interval) continue;
      const double y = centre + gap * (static_cast<double>(s) - (series - 1) / 2);
      const auto clamped = [&](double v) { return x.at(std::clamp(v, low, high)); };
      svg += fmt::format(
          "<line class='whisker s{0}' x1={1:.1f} x2={2:.1f} y1={3:.1f} y2={3:.1f} />"
          "<circle class='dot s{0}' cx={4:.1f} cy={3:.1f} r=4 />",
          colours[s], clamped(interval->low), clamped(interval->high), y, clamped(interval->mean));
    }
  }
  return svg + "</svg>";
}

std::string bar_chart(const std::string& title, const std::vector<BarGroup>& groups,
                      const std::string& legend) {
  constexpr double left = 240, right = 640, width = 940, row = 22;
  double most = 0, y = 64;
  for (const auto& group : groups)
    for (const auto& bar : group.bars) most = std::max(most, bar.value);
  const Axis x{0, most > 0 ? most : 1, left, right};
  std::string body = fmt::format(
      "<text class=\"label\" x=\"16\" y=\"26\" font-weight=\"600\">{}</text>"
      "<text class=\"tick\" x=\"16\" y=\"46\">{}</text>",
      escape(title), escape(legend));
  for (const auto& group : groups) {
    y += row;
    body += fmt::format("<text class=\"label\" x=\"16\" y=\"{:.1f}\" font-weight=\"600\">{}</text>",
                        y, escape(group.title));
    for (const auto& bar : group.bars) {
      y += row;
      body += fmt::format(
          "<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
          "<rect class=\"bar\" opacity=\".4\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
          "height=\"14\"/>"
          "<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"14\"/>"
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
          left - 8, y, escape(bar.label), left, y - 11, x.at(bar.value) - left, left, y - 11,
          x.at(std::min(bar.inner, bar.value)) - left, x.at(bar.value) + 8, y, escape(bar.note));
    }
    y += row / 2;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {:.0f}\" "
      "font-family=\"system-ui, sans-serif\">\n<style>{}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fbfaf8\"/>\n{}\n</svg>\n",
      width, y + row, file_style, body);
}

}  // namespace strata::svg
