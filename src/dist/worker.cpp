#include "dist/worker.hpp"

#include <chrono>

#include "core/activity.hpp"
#include "core/spans.hpp"

namespace strata {

namespace {

class Timed {
 public:
  explicit Timed(double& total) : total_(total) {}
  ~Timed() {
    total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Worker::Worker(bool threaded) {
  if (threaded) thread_ = std::thread([this] { run(); });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    jobs_.clear();
  }
  posted_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Worker::post(Job job) {
  if (!threaded()) {
    const Timed timed(wait_seconds_);
    job();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    jobs_.push_back(std::move(job));
  }
  posted_.notify_one();
}

void Worker::wait_until(const std::function<bool()>& condition) {
  std::unique_lock lock(mutex_);
  if (!error_ && condition()) return;
  const Timed timed(wait_seconds_);
  const activity::Waits waits(activity::Collective::thread);
  const spans::Span span("wait for communication", "wait");
  finished_.wait(lock, [&] { return error_ || condition(); });
  if (error_) std::rethrow_exception(error_);
}

void Worker::drain() {
  wait_until([this] { return jobs_.empty() && !busy_; });
}

void Worker::run() {
  activity::set_thread(activity::Thread::gradients);
  spans::name_thread("communication");
  std::unique_lock lock(mutex_);
  while (true) {
    posted_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr error;
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    busy_ = false;
    if (error) {
      error_ = error;
      jobs_.clear();
    }
    finished_.notify_all();
  }
}

}  // namespace strata
