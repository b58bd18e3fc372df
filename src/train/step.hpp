#pragma once
// One training step, and what it needs at hand.

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/replay.hpp"
#include "data/loader.hpp"
#include "diffusion/loss.hpp"
#include "dist/zero2.hpp"
#include "model/unet.hpp"
#include "train/config.hpp"
#include "train/dump.hpp"
#include "train/microbatch.hpp"

namespace strata {

struct StepOutcome {
  std::int64_t step = 0;
  double loss = 0;  // mean over the global batch
  double grad_norm = 0;
  bool applied = true;            // false: the gradient was not finite and nothing was changed
  bool stop = false;              // some rank was asked to stop: the same answer on every rank
  double data_s = 0, comm_s = 0;  // this rank waited for data, for communication
};

/// How steps are given to the device.
struct StepMode {
  bool replays = false;  // passes and updates are recorded and played
  int text_buckets = 0;  // packed text is padded to so many numbers of rows; 0: not at all
  int behind = 0;        // steps that may be under way when the next one starts: 0 or 1
};
/// On the host nothing is padded, recorded or left under way.
StepMode step_mode(const TrainConfig& config);

/// With several microbatches a step each bucket has two recordings, of the first and of others:
/// half as many buckets then.
RowBuckets step_buckets(const CacheSet& caches, std::int64_t samples, int microbatches,
                        const StepMode& mode);

/// Collective: every rank makes the same calls.
class Learner {
 public:
  /// Opens the caches, builds the U-Net and this rank's shards. Errors 64, 65, 78.
  Learner(const TrainConfig& config, Communicator& communicator)
      : Learner(config, communicator, step_mode(config)) {}
  Learner(const TrainConfig& config, Communicator& communicator, StepMode mode);

  /// Weights from nowhere (seed) or from model.init; the optimizer's moments are zero.
  void initialize_weights();
  /// The loader goes on behind `steps` done steps, of which `updates` changed the weights. Steps
  /// under way are forgotten.
  void continue_after(std::int64_t steps, std::int64_t updates);

  /// Called before elements [begin, end) of the optimizer's state change.
  void before_change(std::function<void(IndexRange)> call) { zero_.before_change(std::move(call)); }

  /// stop: this rank was asked to stop. dump: filled when given; the step is then done at once.
  void start_step(bool stop, StepDump* dump = nullptr);
  /// What has become of steps, in their order: all of them, or those that need not be under way any
  /// more. After a stop it is always all.
  std::vector<StepOutcome> finished_steps(bool all);
  StepOutcome step(bool stop, StepDump* dump = nullptr) {
    start_step(stop, dump);
    return finished_steps(true).back();
  }

  std::int64_t steps() const { return steps_; }  // started
  /// Of finished steps.
  std::int64_t updates() const { return updates_; }
  std::int64_t microbatch() const { return microbatch_; }
  Exec& exec() { return exec_; }
  const UNet& unet() const { return unet_; }
  Zero2& zero() { return zero_; }
  const CacheSet& caches() const { return caches_; }
  const std::string& latents_hash() const { return latents_hash_; }  // of the caches' manifests
  const std::string& text_hash() const { return text_hash_; }
  const NoiseSchedule& schedule() const { return schedule_; }
  std::size_t recordings() const { return replays_.recordings(); }

 private:
  /// A step whose result is on its way to the host.
  struct UnderWay {
    std::int64_t step = 0;
    int slot = 0;
    bool stop = false;
    double data_s = 0;
    std::vector<std::vector<float>> weights;  // of the samples, by microbatch
  };

  void run_microbatch(int index, UnderWay& step, StepDump* dump);
  void pass(std::int64_t rows, bool first, const Batch& batch, const Captions& captions,
            StepDump* dump);
  void update_weights();
  StepOutcome finish(const UnderWay& step);
  int microbatches() const;

  const TrainConfig& config_;
  Communicator& communicator_;
  const StepMode mode_;
  const PhiloxKey key_;
  const std::int64_t microbatch_;
  Exec exec_;
  std::unique_ptr<Communicator> between_devices_;
  CacheSet caches_;
  const std::string latents_hash_, text_hash_;
  NoiseSchedule schedule_;
  UNet unet_;
  Zero2 zero_;
  RowBuckets buckets_;
  Microbatch input_;
  Buffer losses_;  // (B) f32 of the last microbatch
  Readback results_;
  Replays replays_;
  std::unique_ptr<Loader> loader_;
  std::deque<UnderWay> under_way_;
  std::int64_t steps_ = 0, updates_ = 0;
};

}  // namespace strata
