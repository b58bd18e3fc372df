#include "data/loader.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.hpp"
#include "core/spans.hpp"

namespace strata {

Loader::Loader(const CacheSet& caches, const SampleOrder& order, const LoaderSchedule& schedule,
               int prefetch)
    : caches_(caches),
      order_(order),
      schedule_(schedule),
      prefetch_(static_cast<std::size_t>(std::max(prefetch, 1))) {
  const std::int64_t lanes = schedule.microbatch * schedule.ranks;
  if (schedule.microbatch < 1 || schedule.global_batch < 1 || schedule.global_batch % lanes != 0)
    fail(Exit::usage, "global batch {}: must be a multiple of microbatch x ranks = {} x {}",
         schedule.global_batch, schedule.microbatch, schedule.ranks);
  STRATA_CHECK(order.count() == caches.size(), "an order of {} samples for {}", order.count(),
               caches.size());
  thread_ = std::thread([this] { run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::vector<SampleOrder::Position> Loader::positions(std::int64_t index) const {
  const std::int64_t step = index / schedule_.microbatches();
  const std::int64_t microbatch = index % schedule_.microbatches();
  const std::int64_t lane = microbatch * schedule_.ranks + schedule_.rank;
  const std::uint64_t first =
      schedule_.first_counter +
      static_cast<std::uint64_t>(step * schedule_.global_batch + lane * schedule_.microbatch);
  std::vector<SampleOrder::Position> positions;
  for (std::int64_t i = 0; i < schedule_.microbatch; ++i)
    positions.push_back(order_.at(first + static_cast<std::uint64_t>(i)));
  return positions;
}

Batch Loader::read(std::int64_t index) const {
  const spans::Span span("read batch", "data");
  Batch batch = caches_.read(positions(index));
  batch.step = index / schedule_.microbatches();
  batch.microbatch = static_cast<int>(index % schedule_.microbatches());
  return batch;
}

void Loader::run() {
  spans::name_thread("loader");
  try {
    caches_.will_read(positions(0));
    const std::int64_t end = schedule_.steps * schedule_.microbatches();
    for (std::int64_t index = 0; schedule_.steps < 0 || index < end; ++index) {
      caches_.will_read(positions(index + 1));  // a disk has more to do than this batch
      Batch batch = read(index);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ready_.size() < prefetch_; });
      if (stop_) return;
      ready_.push_back(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  done_ = true;
  changed_.notify_all();
}

Batch Loader::next() {
  const spans::Span span("wait for data", "wait");
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || done_; });
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (ready_.empty()) {
    if (failure_) std::rethrow_exception(failure_);
    fail(Exit::internal, "the loader has delivered all {} steps", schedule_.steps);
  }
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace strata
