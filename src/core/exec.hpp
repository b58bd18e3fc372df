#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.hpp"

namespace strata {

/// A backend's own state: primitive caches, handles, streams. Defined in kernels/host and
/// kernels/cuda.
struct Backend;

/// A place in the order of an Exec's ops. One that was never marked is reached.
class Moment {
 public:
  virtual ~Moment() = default;
  /// Whether the ops before it are done; does not wait.
  virtual bool is_reached() const { return true; }
};

/// The ops that a body called, to be done again as often as wanted: on the same tensors, without
/// the body.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Behind every op called so far.
  virtual void play() = 0;
};

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
  /// Whether those copies stay for the next use (the default). One pass between two changes uses
  /// each of them once: then they need no memory of their own.
  void keep_layouts(bool keep);
  /// Bytes of those copies.
  std::int64_t layout_bytes() const;

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

  /// Moments of this Exec's device; any Exec of the device may mark them and wait for them.
  std::unique_ptr<Moment> make_moment();
  void mark(Moment& moment);
  /// Ops called from now on begin when the moment is reached; the caller goes on at once.
  void wait_for(const Moment& moment);
  /// As an op, between memory of the device and pinned memory of the host (core/feed.hpp).
  void copy(void* to, const void* from, std::size_t bytes);

  /// From now on the backend measures which of a vendor's kernels suits a shape best, and keeps the
  /// choices in this folder ("": in the user's cache), so that later runs repeat them. Otherwise,
  /// and on the host, the vendor's own first choice is taken.
  void measure_choices(const std::string& folder);

  /// Calls body, whose ops are kept instead of done, also those of Execs that wait for this one and
  /// that this one waits for at the end. Host tensors of counts are read here and never again.
  /// Error(70) where body allocates memory or waits for the device: its ops must have been called
  /// once before. Null on the host, which keeps to these rules and does the ops.
  std::unique_ptr<Recording> record(const std::function<void()>& body);

  Tensor empty(DType dtype, Shape shape) { return arena.empty(dtype, shape); }

  Arena arena;

 private:
  int threads_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Exec>> team_;  // one a thread, once for_each_task was called
};

}  // namespace strata
