#pragma once
// Training: the step readable as the algorithm, and the run around it.

#include <cstdint>
#include <functional>
#include <string>

#include "dist/communicator.hpp"
#include "model/unet.hpp"
#include "train/config.hpp"

namespace strata {

/// Called on every rank with the current compute weights, at the end of a step whose number is a
/// multiple of samples.every; `dir` (samples/step-XXXXXXXX) is to be filled.
struct PreviewRequest {
  std::int64_t step;
  std::string dir;
  Exec& exec;
  const UNet& unet;
  const Weights& weights;
};

using Preview = std::function<void(const PreviewRequest&)>;

struct TrainOptions {
  std::string resume = "auto";  // auto | never | a checkpoint folder
  bool overwrite = false;       // with `never`: the folder's checkpoints may go
  std::int64_t dump_steps = 0;
  std::string trace;  // file; see train/step_trace.hpp
  std::int64_t trace_steps = 3;
  /// Called once before the first step: loads what sample images need. Absent: no sample images.
  std::function<Preview()> make_preview;
};

struct TrainResult {
  std::int64_t step = 0;  // steps done
  double loss = 0;        // of the last step
  bool stopped = false;   // on request, with a checkpoint saved: the command exits with 75
};

/// Trains until config.train.steps or a stop signal. Collective over `communicator`. Errors: 64
/// config, 65 data, 66 no valid checkpoint, 73 (`never` on a folder with checkpoints), 78 mismatch,
/// 87 numerics.
TrainResult run_training(const TrainConfig& config, const TrainOptions& options,
                         Communicator& communicator);

/// `--dry-run`: memory a rank by kind, steps, epochs, time from FLOPs and a quick measured matmul
/// rate, disk of checkpoints; as text for people.
std::string plan_training(const TrainConfig& config, Communicator& communicator);

}  // namespace strata
