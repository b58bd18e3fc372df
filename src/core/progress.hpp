#pragma once
// Progress for people: one moving line on a terminal, one plain line now and then in a Slurm log.

#include <chrono>
#include <cstdint>
#include <string>

namespace strata {

/// Only rank 0 shows anything (log::set_rank). STRATA_PROGRESS=plain|bar|off overrides the
/// detection.
class Progress {
 public:
  /// total: 0 when it is not known. unit: what is counted, e.g. "images". seconds: at most one
  /// plain line in so many seconds.
  Progress(std::string what, std::int64_t total, std::string unit, double seconds = 30);
  ~Progress();
  /// done so far (of total); `extra` is shown beside it, e.g. "loss 0.123".
  void update(std::int64_t done, const std::string& extra = {});
  void finish(const std::string& extra = {});

 private:
  std::string line(std::int64_t done, const std::string& extra) const;

  std::string what_, unit_;
  std::int64_t total_, first_ = -1, last_done_ = 0;
  double seconds_;
  std::chrono::steady_clock::time_point start_, last_shown_;
  bool bar_, shown_ = false, finished_ = false, off_;
};

/// "1h02m", "12m30s", "8s"
std::string format_duration(double seconds);

}  // namespace strata
