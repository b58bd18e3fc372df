#pragma once

namespace strata {

/// The report page's style sheet.
inline constexpr const char* report_style = R"css(
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f24; --quiet: #62666f; --rule: #e2e0db;
  --s0: #1769aa; --s1: #c2571a; --s2: #2f8a4c; --s3: #8a4fae; --s4: #a8871a; --s5: #b03a5b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --card: #1e2126; --ink: #e8e6e1; --quiet: #9ba0aa; --rule: #33373e;
    --s0: #6cb2ee; --s1: #f0985c; --s2: #6fcf8b; --s3: #c697e6; --s4: #dfc15a; --s5: #ee82a0;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
header { border-bottom: 1px solid var(--rule); padding-bottom: 16px; }
header p { max-width: 72ch; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 15px; font-weight: 600; margin: 0; }
p { margin: 0 0 10px; }
.quiet, small, figcaption, footer { color: var(--quiet); }
small, .quiet, figcaption, footer { font-size: 13px; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-top: 4px solid var(--c);
  border-radius: 8px; padding: 14px 18px; }
.card p { margin: 0; font-size: 14px; }
.card .big { font-size: 40px; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--rule); }
th, td { padding: 6px 14px 6px 0; vertical-align: baseline; }
td { border-bottom: 1px solid var(--rule); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.total td { font-weight: 600; border-bottom: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; font-size: 14px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  background: var(--c); margin-right: 7px; }
figure { margin: 18px 0; }
.chart { display: block; width: 100%; max-width: 820px; height: auto; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .axis { stroke: var(--quiet); stroke-width: 1; }
.chart .tick { fill: var(--quiet); font-size: 12px; }
.chart .label { fill: var(--ink); font-size: 13px; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
.chart .dashed { fill: none; stroke: var(--c); stroke-width: 1.2; stroke-dasharray: 4 4; }
.chart .dot { fill: var(--c); }
.chart .whisker { stroke: var(--c); stroke-width: 2.4; stroke-linecap: round; opacity: .55; }
.sheet { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }
.example { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px; }
.example figcaption { color: var(--ink); line-height: 1.35; margin-top: 8px; }
.shots { display: flex; gap: 8px; }
.shot { flex: 1 1 0; min-width: 0; max-width: 128px; }
.shot img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px;
  border-bottom: 3px solid var(--c); }
.shot img.small { image-rendering: pixelated; }
.score { display: inline-block; margin-top: 5px; padding: 0 7px; border-radius: 9px; font-size: 12px;
  font-variant-numeric: tabular-nums; color: var(--quiet); border: 1px solid var(--rule); }
.score.whole { background: var(--c); border-color: var(--c); color: var(--paper); }
details { margin-top: 10px; font-size: 14px; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px; font-size: 12.5px; line-height: 1.45; }
footer { border-top: 1px solid var(--rule); margin-top: 48px; padding-top: 14px; }
@media print { .card, .example { break-inside: avoid; } }
)css";

}  // namespace strata
