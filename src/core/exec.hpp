#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/arena.hpp"

namespace strata {

/// A backend's own state: primitive caches, handles, streams. Defined in kernels/host and
/// kernels/cuda.
struct Backend;

/// What every op needs to run; passed down by reference, there are no globals. One Exec per thread
/// of control: its arena and caches are not locked.
class Exec {
 public:
  /// threads = 0: as many as the process may use (its CPU affinity mask or OMP_NUM_THREADS).
  explicit Exec(Device device = host_device, int threads = 0);
  ~Exec();
  Exec(Exec&&) noexcept;
  Exec& operator=(Exec&&) = delete;

  Device device() const { return arena.device(); }
  int threads() const { return threads_; }
  Backend& backend() { return *backend_; }

  /// Weights handed to ops are cached in the vendor's own layout by address; call this after they
  /// changed in place (an optimizer step, a load).
  void weights_changed();

  /// Returns when every op called so far is done (on the host an op is done when it returns).
  void synchronize();
  /// Ops called from now on begin after those that `other`, on the same device, was given so far.
  void wait_for(Exec& other);

  /// body(one, task) for each task of [0, count), in no order that could be relied on. On the host
  /// every thread takes task after task with a one-threaded Exec of its own, which stays for the
  /// next call; elsewhere, and where threads outnumber tasks, this Exec takes them one by one. The
  /// first exception is thrown on once all threads have stopped.
  void for_each_task(std::int64_t count,
                     const std::function<void(Exec& one, std::int64_t task)>& body);

  Tensor empty(DType dtype, Shape shape) { return arena.empty(dtype, shape); }

  Arena arena;

 private:
  int threads_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Exec>> team_;  // one a thread, once for_each_task was called
};

}  // namespace strata
