// Exec and memory: which backend a device belongs to.

#include <cmath>
#include <cstring>

#include "kernels/backend.hpp"

namespace strata {

namespace {
std::unique_ptr<Backend> make_backend(Device device, int threads) {
  return device.kind == DeviceKind::host ? host::make_backend(threads) : cuda::make_backend(device);
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
  backend_->synchronize();
}

void Exec::wait_for(Exec& other) {
  STRATA_CHECK(device() == other.device(), "two devices");
  backend_->wait_for(*other.backend_);
}

portable::AdamWStep adamw_step(const ops::AdamWParams& p) {
  const auto steps = static_cast<double>(p.step);
  return {.take1 = static_cast<float>(1 - p.beta1),
          .keep2 = static_cast<float>(p.beta2),
          .take2 = static_cast<float>(1 - p.beta2),
          .decay = static_cast<float>(1 - p.lr * p.weight_decay),
          .size = static_cast<float>(p.lr / (1 - std::pow(p.beta1, steps))),
          .inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(p.beta2, steps))),
          .eps = static_cast<float>(p.eps),
          .grad_scale = p.grad_scale};
}

namespace memory {

void* allocate(Device device, std::size_t bytes) {
  return device.kind == DeviceKind::host ? host::allocate(bytes) : cuda::allocate(device, bytes);
}

void release(Device device, void* data) noexcept {
  device.kind == DeviceKind::host ? host::release(data) : cuda::release(device, data);
}

void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (to_device == host_device && from_device == host_device)
    std::memmove(to, from, bytes);
  else
    cuda::copy(to, to_device, from, from_device, bytes);
}

}  // namespace memory
}  // namespace strata
