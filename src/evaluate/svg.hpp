#pragma once
// Inline SVG charts for the report page. Colours come from the page's CSS: classes s0, s1, ... give
// a series its colour, `axis` and `grid` the rest.

#include <string>
#include <vector>

#include "evaluate/report.hpp"

namespace strata::svg {

std::string escape(const std::string& text);  // for HTML and SVG

struct Series {
  std::string name;
  int colour = 0;        // class sN
  bool markers = false;  // points joined by a dashed line instead of a solid line
  std::vector<CurvePoint> points;
};

/// A line chart; the y range leaves out the highest 2 % of all values, which early training has.
std::string line_chart(const std::vector<Series>& series, const std::string& x_label,
                       const std::string& y_label);

struct IntervalRow {
  std::string label;
  std::vector<const Interval*> intervals;  // one a series, nullptr where there is none
};

/// Dots with whiskers, one row a label, one colour a series. The x range is [low, high], with a
/// line at zero where it lies inside.
std::string interval_chart(const std::vector<IntervalRow>& rows, const std::vector<int>& colours,
                           double low, double high);

struct Bar {
  std::string label;
  double value;      // the bar's length, in the unit of the chart
  double inner = 0;  // drawn darker from its beginning
  std::string note;  // behind it
};
struct BarGroup {
  std::string title;
  std::vector<Bar> bars;
};

/// Horizontal bars in groups on one scale, as a file of its own.
std::string bar_chart(const std::string& title, const std::vector<BarGroup>& groups,
                      const std::string& legend);

}  // namespace strata::svg
