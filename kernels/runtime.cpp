// Exec and memory: which backend a device belongs to.

#include <cstring>

#include "core/feed.hpp"
#include "core/shared_layouts.hpp"
#include "kernels/backend.hpp"

namespace strata {

namespace {
/// Recording is a state of the thread for CUDA, too: what it forbids is called without an Exec.
thread_local bool records = false;

std::unique_ptr<Backend> make_backend(Device device, int threads) {
  switch (device.kind) {
    case DeviceKind::cuda:
      return cuda::make_backend(device);
    case DeviceKind::counted:
      return counted::make_backend();
    case DeviceKind::host:
      break;
  }
  return host::make_backend(threads);
}
}  // namespace

Exec::Exec(Device device, int threads)
    : arena(device),
      threads_(threads > 0 ? threads : host::default_threads()),
      backend_(make_backend(device, threads_)) {}
Exec::~Exec() = default;
Exec::Exec(Exec&&) noexcept = default;

void Exec::weights_changed() {
  backend_->weights_changed();
  for (const auto& one : team_) one->weights_changed();
}

void Exec::keep_layouts(bool keep) {
  backend_->keep_layouts(keep);
}

std::int64_t Exec::layout_bytes() const {
  return backend_->layout_bytes();
}

void share_layouts(Exec& exec, const std::shared_ptr<SharedLayouts>& shared, Tensor weights) {
  exec.backend().share_layouts(shared, weights);
}

std::int64_t shared_layout_bytes(Exec& exec) {
  return exec.backend().shared_layout_bytes();
}

void Exec::for_each_task(std::int64_t count,
                         const std::function<void(Exec& one, std::int64_t task)>& body) {
  if (!(device() == host_device) || threads_ == 1 || count < threads_) {
    for (std::int64_t task = 0; task < count; ++task) body(*this, task);
    return;
  }
  while (std::ssize(team_) < threads_) team_.push_back(std::make_unique<Exec>(host_device, 1));
  host::run_team(threads_, count, [&](int thread, std::int64_t task) {
    body(*team_[static_cast<std::size_t>(thread)], task);
  });
}

void Exec::synchronize() {
  forbid_while_recording("wait for the device");
  backend_->synchronize();
}

std::unique_ptr<Moment> Exec::make_moment() {
  return backend_->make_moment();
}
void Exec::mark(Moment& moment) {
  backend_->mark(moment);
}
void Exec::wait_for(const Moment& moment) {
  backend_->wait_for(moment);
}
void Exec::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) backend_->copy(to, from, bytes);
}

void Exec::measure_choices(const std::string& folder) {
  backend_->measure_choices(folder);
}

std::unique_ptr<Recording> Exec::record(const std::function<void()>& body) {
  forbid_while_recording("record");
  return backend_->record(body);
}

bool is_recording() {
  return records;
}

void forbid_while_recording(const char* what) {
  if (records) fail(Exit::internal, "{} while ops are recorded", what);
}

void fail_outside_of_recording() {
  fail(Exit::internal, "ops wait for others across the bounds of a recording");
}

void call_for_recording(const std::function<void()>& body) {
  struct Recorded {
    Recorded() { records = true; }
    ~Recorded() { records = false; }
  } const recorded;
  body();
}

void Exec::wait_for(Exec& other) {
  STRATA_CHECK(device() == other.device(), "two devices");
  backend_->wait_for(*other.backend_);
}

namespace memory {

void* allocate(Device device, std::size_t bytes) {
  forbid_while_recording("allocate memory");
  switch (device.kind) {
    case DeviceKind::cuda:
      return cuda::allocate(device, bytes);
    case DeviceKind::counted:
      return counted::allocate(bytes);
    case DeviceKind::host:
      break;
  }
  return host::allocate(bytes);
}

void release(Device device, void* data, std::size_t bytes) noexcept {
  switch (device.kind) {
    case DeviceKind::cuda:
      return cuda::release(device, data);
    case DeviceKind::counted:
      return counted::release(data, bytes);
    case DeviceKind::host:
      return host::release(data);
  }
}

void* allocate_pinned(Device device, std::size_t bytes) {
  forbid_while_recording("allocate memory");
  return device.kind == DeviceKind::cuda ? cuda::allocate_pinned(device, bytes)
                                         : host::allocate(bytes);
}

void release_pinned(Device device, void* data) noexcept {
  device.kind == DeviceKind::cuda ? cuda::release_pinned(data) : host::release(data);
}

void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  forbid_while_recording("copy at once");
  const auto either = [&](DeviceKind kind) {
    return to_device.kind == kind || from_device.kind == kind;
  };
  if (either(DeviceKind::counted)) return;
  if (either(DeviceKind::cuda))
    cuda::copy(to, to_device, from, from_device, bytes);
  else
    std::memmove(to, from, bytes);
}

}  // namespace memory
}  // namespace strata
