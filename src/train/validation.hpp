#pragma once

#include <functional>
#include <optional>

#include "data/cache_set.hpp"
#include "diffusion/schedule.hpp"
#include "dist/communicator.hpp"
#include "model/unet.hpp"
#include "train/metrics.hpp"

namespace strata {

struct ValidationOptions {
  int timesteps = 4;  // a sample, one from each of so many equal parts of the schedule
  std::int64_t microbatch = 1;
  bool pooled = false;
  std::function<bool()> stop = [] { return false; };  // asked between two measurements
};

/// The timestep at which the k-th of `count` measurements of a sample is always made.
int validation_timestep(std::int64_t sample, int k, int count, int timesteps);

/// Mean squared error on the held-out samples, with their captions, at fixed timesteps with fixed
/// noise: the same for every run, seed and number of ranks. Collective. step and samples are left
/// 0. Nothing when some rank was told to stop.
std::optional<ValidationRecord> run_validation(Exec& exec, const UNet& unet, const Weights& weights,
                                               const NoiseSchedule& schedule,
                                               const CacheSet& caches,
                                               const ValidationOptions& options,
                                               Communicator& communicator);

}  // namespace strata
