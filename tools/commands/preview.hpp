#pragma once

#include "train/trainer.hpp"

namespace strata::commands {

/// The trainer's hook for images of [samples]: prompts are encoded once, here, the way the run's
/// text cache was; every call then makes `<id>.png` of the first samples.count prompts, shared
/// among the ranks.
Preview preview_images(const TrainConfig& config, Communicator& communicator);

}  // namespace strata::commands
