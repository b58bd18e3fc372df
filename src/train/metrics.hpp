#pragma once
// What a run records: metrics.jsonl, validation.jsonl, TensorBoard events and the ranks' logs.

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "train/appended_file.hpp"
#include "train/run_folder.hpp"
#include "train/tensorboard.hpp"

namespace strata {

/// One logged step. Times are the slowest rank's, of this step; rates are means over the steps
/// since the last record, without validation, previews and checkpoints.
struct StepRecord {
  std::int64_t step = 0, samples = 0, epoch = 0;
  double loss = 0;  // global mean
  double lr = 0, grad_norm = 0;
  double images_per_s = 0, images_per_s_per_rank = 0;
  double mfu = 0;  // of the matmul rate measured at the start
  double step_s = 0;
  double data_s = 0;  // waited for data
  double comm_s = 0;  // waited for communication
  double mem_gb = 0;  // highest resident memory of a rank

  /// One line with exactly these keys; a number that is not finite is null.
  std::string to_json() const;
};

struct ValidationRecord {
  std::int64_t step = 0, samples = 0, count = 0;
  double loss = 0;                    // mean of the squared error, unweighted
  std::array<double, 4> quartiles{};  // of the timesteps, low noise first
  std::string to_json() const;
};

/// Lines appended to a file whole; a torn last line of an earlier run is cut off when it is opened.
class LineLog {
 public:
  explicit LineLog(const std::string& path);
  void append(const std::string& line);

 private:
  AppendedFile file_;
};

/// Rank 0's records. A resumed run appends: the later record of a step holds.
class MetricsLog {
 public:
  explicit MetricsLog(const RunFolder& run);
  void record(const StepRecord& record);
  void record(const ValidationRecord& record);
  /// Whether the last validation that the run recorded is that of this step.
  bool has_validation(std::int64_t step) const;
  /// Every PNG in `dir`, by file name.
  void record_images(std::int64_t step, const std::string& dir);

 private:
  LineLog steps_;
  std::unique_ptr<LineLog> validation_;
  RunFolder run_;
  TensorBoardWriter board_;
};

}  // namespace strata
