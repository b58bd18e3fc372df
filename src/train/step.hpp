#pragma once
// One training step, and what it needs at hand.

#include <functional>
#include <memory>
#include <optional>

#include "data/loader.hpp"
#include "diffusion/loss.hpp"
#include "dist/zero2.hpp"
#include "model/unet.hpp"
#include "train/config.hpp"
#include "train/dump.hpp"

namespace strata {

struct StepOutcome {
  double loss = 0;  // mean over the global batch
  double grad_norm = 0;
  bool applied = true;            // false: the gradient was not finite and nothing was changed
  bool stop = false;              // some rank was asked to stop: the same answer on every rank
  double data_s = 0, comm_s = 0;  // this rank waited for data, for communication
};

/// Collective: every rank makes the same calls.
class Learner {
 public:
  /// Opens the caches, builds the U-Net and this rank's shards. Errors 64, 65, 78.
  Learner(const TrainConfig& config, Communicator& communicator);

  /// Weights from nowhere (seed) or from model.init; the optimizer's moments are zero.
  void initialize_weights();
  /// The loader goes on behind `steps` done steps, of which `updates` changed the weights.
  void continue_after(std::int64_t steps, std::int64_t updates);

  /// Called before elements [begin, end) of the optimizer's state change.
  void before_change(std::function<void(IndexRange)> call) { before_change_ = std::move(call); }

  /// stop: this rank was asked to stop. dump: filled when given.
  StepOutcome step(bool stop, StepDump* dump = nullptr);

  std::int64_t steps() const { return steps_; }
  std::int64_t updates() const { return updates_; }
  std::int64_t microbatch() const { return microbatch_; }
  Exec& exec() { return exec_; }
  const UNet& unet() const { return unet_; }
  Zero2& zero() { return zero_; }
  const CacheSet& caches() const { return caches_; }
  const std::string& latents_hash() const { return latents_hash_; }  // of the caches' manifests
  const std::string& text_hash() const { return text_hash_; }
  const NoiseSchedule& schedule() const { return schedule_; }

 private:
  const TrainConfig& config_;
  Communicator& communicator_;
  const PhiloxKey key_;
  const std::int64_t microbatch_;
  Exec exec_;
  std::unique_ptr<Communicator> between_devices_;
  CacheSet caches_;
  const std::string latents_hash_, text_hash_;
  NoiseSchedule schedule_;
  UNet unet_;
  Zero2 zero_;
  std::unique_ptr<Loader> loader_;
  std::function<void(IndexRange)> before_change_ = [](IndexRange) {};
  std::int64_t steps_ = 0, updates_ = 0;
};

}  // namespace strata
