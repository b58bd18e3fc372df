#pragma once
// A thread that reads this rank's microbatches ahead of the training loop.

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/cache_set.hpp"

namespace strata {

/// Which global sample counters this rank reads. Step s covers [first + s * global_batch, +
/// global_batch), cut into lanes of `microbatch` samples; microbatch m of rank r is lane m * ranks
/// + r.
struct LoaderSchedule {
  std::uint64_t first_counter = 0;
  std::int64_t global_batch = 1;
  std::int64_t microbatch = 1;
  int rank = 0, ranks = 1;
  std::int64_t steps = -1;  // < 0: without end

  int microbatches() const { return static_cast<int>(global_batch / (microbatch * ranks)); }
};

class Loader {
 public:
  /// prefetch: microbatches kept ready. global_batch must be a multiple of microbatch * ranks
  /// (Error(64)). The set must outlive the loader.
  Loader(const CacheSet& caches, const SampleOrder& order, const LoaderSchedule& schedule,
         int prefetch = 4);
  /// Stops the thread, whatever it is doing.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next microbatch in order. Rethrows what the thread met (damage is Error(65)). After the
  /// last step it is Error(70).
  Batch next();
  /// Seconds that `next` has waited so far: the run's data_s.
  double wait_seconds() const { return wait_seconds_; }

 private:
  void run();
  /// Of this rank's i-th microbatch.
  std::vector<SampleOrder::Position> positions(std::int64_t index) const;
  Batch read(std::int64_t index) const;

  const CacheSet& caches_;
  const SampleOrder order_;
  const LoaderSchedule schedule_;
  const std::size_t prefetch_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;
  bool stop_ = false, done_ = false;
  double wait_seconds_ = 0;
  std::thread thread_;
};

}  // namespace strata
