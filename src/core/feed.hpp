#pragma once
// What goes between host and device while both work on: input a step ahead, results a step later.
// On the host it is plain memory.

#include <array>
#include <optional>

#include "core/exec.hpp"

namespace strata {

namespace memory {
/// Host memory that a device copies to and from by itself; 64-byte aligned.
void* allocate_pinned(Device device, std::size_t bytes);
void release_pinned(Device device, void* data) noexcept;
}  // namespace memory

class Pinned {
 public:
  Pinned(Device device, std::size_t bytes)
      : device_(device),
        data_(static_cast<std::byte*>(memory::allocate_pinned(device, bytes))),
        bytes_(bytes) {}
  ~Pinned() { memory::release_pinned(device_, data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  Device device_;
  std::byte* data_;
  std::size_t bytes_;
};

/// Calls `each` until it returns true, with pauses that grow to 200 us.
void poll_until(const std::function<bool()>& each);

/// Input in memory that stays where it is, so that recorded ops find it. The host writes the next
/// one while the device reads the last: two pinned halves, copied in an order of their own into two
/// halves on the device, and from there, between two ops, to their place.
class Feed {
 public:
  Feed(Exec& exec, std::size_t bytes);
  /// Where the host writes the next input. Waits until its last use is copied: two inputs ago.
  std::byte* begin();
  /// Ops called from now on see the first `bytes` of it at memory().
  void send(std::size_t bytes);
  std::byte* memory() const { return place_.tensor().data; }

  /// What a feed of so many bytes takes.
  struct Cost {
    std::int64_t device, pinned;
  };
  static Cost cost(Device device, std::int64_t bytes);

 private:
  struct Half {
    std::optional<Pinned> pinned;
    Buffer there;
    std::unique_ptr<Moment> copied, used;
  };
  Exec& exec_;
  Buffer place_;
  std::optional<Exec> copies_;  // none on the host
  std::array<Half, 2> halves_;
  int half_ = 0;
};

/// Results on their way to the host: slots that are filled in turn.
class Readback {
 public:
  Readback(Exec& exec, std::size_t bytes_a_slot, int slots);
  /// As an op: bytes of a tensor to `offset` of a slot.
  void take(int slot, std::size_t offset, Tensor from);
  /// Nothing more comes into the slot.
  void close(int slot) { exec_.mark(*moments_[slot]); }
  const Moment& moment(int slot) const { return *moments_[slot]; }
  /// To be read once the slot's moment is reached.
  const std::byte* at(int slot) const { return pinned_.data() + bytes_ * slot; }

 private:
  Exec& exec_;
  std::size_t bytes_;
  Pinned pinned_;
  std::vector<std::unique_ptr<Moment>> moments_;
};

}  // namespace strata
