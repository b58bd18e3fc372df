#pragma once
// One thread that does communication jobs in the order given, or none: then they are done at once.

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace strata {

class Worker {
 public:
  using Job = std::function<void()>;
  /// threaded = false: `post` runs the job before it returns.
  explicit Worker(bool threaded);
  /// Jobs that have not begun are dropped; waits for the one that is running.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void post(Job job);
  /// Returns when `condition` holds; it is evaluated under `mutex()` after every finished job.
  /// Throws what a job threw; after that every call throws it.
  void wait_until(const std::function<bool()>& condition);
  /// Until every posted job is done.
  void drain();
  /// Guards what jobs share with the caller.
  std::mutex& mutex() { return mutex_; }
  bool threaded() const { return thread_.joinable(); }
  /// Time that the caller spent waiting for jobs, or doing them when there is no thread.
  double wait_seconds() const { return wait_seconds_; }

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable posted_, finished_;
  std::deque<Job> jobs_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr error_;
  double wait_seconds_ = 0;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace strata
