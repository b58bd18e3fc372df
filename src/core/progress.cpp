#include "core/progress.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/log.hpp"

namespace strata {

namespace {

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

std::string format_rate(double rate, const std::string& unit) {
  return rate >= 1 ? fmt::format("{:.{}f} {}/s", rate, rate < 10 ? 1 : 0, unit)
                   : fmt::format("{:.1f} s/{}", rate > 0 ? 1 / rate : 0.0, unit);
}

}  // namespace

std::string format_duration(double seconds) {
  const auto s = std::llround(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

Progress::Progress(std::string what, std::int64_t total, std::string unit, double seconds)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      seconds_(seconds),
      start_(std::chrono::steady_clock::now()),
      last_shown_(start_),
      bar_(isatty(STDERR_FILENO) != 0),
      off_(!log::is_shown()) {
  const char* mode = std::getenv("STRATA_PROGRESS");
  if (mode == nullptr) return;
  if (std::string_view(mode) == "off") off_ = true;
  if (std::string_view(mode) == "plain") bar_ = false;
  if (std::string_view(mode) == "bar") bar_ = true;
}

Progress::~Progress() {
  if (bar_ && shown_ && !finished_) std::fputc('\n', stderr);
}

std::string Progress::line(std::int64_t done, const std::string& extra) const {
  const double elapsed = seconds_between(start_, std::chrono::steady_clock::now());
  const double rate = elapsed > 0 ? static_cast<double>(done - first_) / elapsed : 0;
  std::string text =
      total_ > 0 ? fmt::format("{} {}/{}", what_, done, total_) : fmt::format("{} {}", what_, done);
  if (!extra.empty()) text += " | " + extra;
  if (rate > 0) {
    text += " | " + format_rate(rate, unit_);
    if (done < total_)
      text += " | left " + format_duration(static_cast<double>(total_ - done) / rate);
    else
      text += " | took " + format_duration(elapsed);
  }
  return text;
}

void Progress::update(std::int64_t done, const std::string& extra) {
  const auto now = std::chrono::steady_clock::now();
  // What is reported at once was done before: a job that goes on where another stopped.
  if (first_ < 0) first_ = done != total_ && seconds_between(start_, now) < 0.2 ? done : 0;
  last_done_ = done;
  // The end is shown once, by finish.
  if (off_ || done == total_) return;
  const double interval = bar_ ? 0.1 : seconds_;
  if (shown_ && seconds_between(last_shown_, now) < interval) return;
  last_shown_ = now;
  shown_ = true;
  if (bar_)
    fmt::print(stderr, "\r{}\x1b[K", line(done, extra));
  else
    log::write_info(line(done, extra));
}

void Progress::finish(const std::string& extra) {
  if (finished_) return;
  finished_ = true;
  if (first_ < 0) first_ = 0;
  if (off_) return;
  if (bar_)
    fmt::print(stderr, "\r{}\x1b[K\n", line(last_done_, extra));
  else
    log::write_info(line(last_done_, extra));
}

}  // namespace strata
