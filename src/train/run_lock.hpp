#pragma once
// One live job owns a run folder.
//
//   .owner/epoch-00000003.json   host, process, Slurm job, heartbeats of the job with this epoch
//
// The highest epoch owns. An epoch is made by creating its file exclusively, which one of any
// number of jobs wins, on a network file system too, without lock calls. Nothing here trusts a
// clock of another machine or a file's time: an owner that cannot be asked (another host) is alive
// as long as its heartbeats change within the watcher's own lease. An owner that was stopped longer
// than the lease finds a higher epoch when it goes on, and gives up (76) before it writes.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace strata {

struct LockTiming {
  std::chrono::milliseconds heartbeat{2000};
  std::chrono::milliseconds lease{60000};
};

class RunLock {
 public:
  /// Owns `dir`, which is there, from now on. Takes over at once from an owner that has ended, was
  /// killed on this machine, or is an earlier start of the same Slurm job; from one that gives no
  /// sign of life after the lease. Error(76) naming an owner that is alive.
  explicit RunLock(const std::string& dir, LockTiming timing = {});
  /// Says that the owner has ended.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  std::int64_t epoch() const { return epoch_; }
  /// Of the owner with this epoch; it goes when another takes the folder over.
  static std::string file(const std::string& dir, std::int64_t epoch);
  /// Error(76) when another job has taken the folder over. Looks at the folder when that was last
  /// done more than a heartbeat ago.
  void confirm();
  /// The same, always looking. Both may be called from several threads.
  void confirm_now();

 private:
  void take_over(std::int64_t last);
  void beat();

  const std::string folder_;
  const LockTiming timing_;
  const std::string identity_;  // JSON members of this owner
  std::int64_t epoch_ = 0;
  std::uint64_t beats_ = 0;
  std::chrono::steady_clock::time_point looked_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread heart_;
};

}  // namespace strata
