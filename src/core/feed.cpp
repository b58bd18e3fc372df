#include "core/feed.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

namespace strata {

namespace {
Shape bytes_shape(std::size_t bytes) {
  return {static_cast<std::int64_t>(bytes)};
}
}  // namespace

void poll_until(const std::function<bool()>& each) {
  constexpr std::chrono::microseconds longest{200};
  for (std::chrono::microseconds pause{5}; !each(); pause = std::min(2 * pause, longest))
    std::this_thread::sleep_for(pause);
}

// --- Feed ---------------------------------------------------------------------------------------

Feed::Feed(Exec& exec, std::size_t bytes)
    : exec_(exec), place_(DType::u8, bytes_shape(bytes), exec.device()) {
  if (exec.device() == host_device) return;
  copies_.emplace(exec.device(), 1);
  for (Half& half : halves_) {
    half.pinned.emplace(exec.device(), bytes);
    half.there = Buffer(DType::u8, bytes_shape(bytes), exec.device());
    half.copied = exec.make_moment();
    half.used = exec.make_moment();
  }
}

std::byte* Feed::begin() {
  if (!copies_) return memory();
  half_ = 1 - half_;
  const Half& half = halves_[half_];
  poll_until([&] { return half.copied->is_reached(); });
  return half.pinned->data();
}

void Feed::send(std::size_t bytes) {
  if (!copies_) return;
  Half& half = halves_[half_];
  STRATA_CHECK(bytes <= half.pinned->bytes(), "{} bytes of {}", bytes, half.pinned->bytes());
  std::byte* there = half.there.tensor().data;
  copies_->wait_for(*half.used);
  copies_->copy(there, half.pinned->data(), bytes);
  copies_->mark(*half.copied);
  exec_.wait_for(*half.copied);
  exec_.copy(memory(), there, bytes);
  exec_.mark(*half.used);
}

Feed::Cost Feed::cost(Device device, std::int64_t bytes) {
  return device == host_device ? Cost{bytes, 0} : Cost{3 * bytes, 2 * bytes};
}

// --- Readback -----------------------------------------------------------------------------------

Readback::Readback(Exec& exec, std::size_t bytes_a_slot, int slots)
    : exec_(exec),
      bytes_((bytes_a_slot + 63) / 64 * 64),
      pinned_(exec.device(), bytes_ * static_cast<std::size_t>(slots)) {
  for (int slot = 0; slot < slots; ++slot) moments_.push_back(exec.make_moment());
}

void Readback::take(int slot, std::size_t offset, Tensor from) {
  STRATA_CHECK(offset + from.bytes() <= bytes_, "{} bytes at {} of {}", from.bytes(), offset,
               bytes_);
  exec_.copy(pinned_.data() + bytes_ * static_cast<std::size_t>(slot) + offset, from.data,
             from.bytes());
}

}  // namespace strata
