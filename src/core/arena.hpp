#pragma once
// Activations and temporaries: a stack of chunks, released back to a mark, never one by one.

#include <vector>

#include "core/buffer.hpp"

namespace strata {

class Arena {
 public:
  explicit Arena(Device device = host_device, std::size_t chunk_bytes = std::size_t{64} << 20)
      : device_(device), chunk_bytes_(chunk_bytes) {}

  /// An uninitialised tensor, 64-byte aligned; lives until a mark taken before it is released.
  Tensor empty(DType dtype, Shape shape);

  struct Mark {
    std::size_t chunk = 0, offset = 0;
    bool operator==(const Mark&) const = default;
  };
  Mark mark() const { return top_; }
  /// Everything allocated after `to` is gone; its memory is kept for reuse.
  void release(Mark to);

  std::size_t used_bytes() const;
  std::size_t peak_bytes() const { return peak_; }
  /// Of its chunks, used or not.
  std::size_t held_bytes() const;
  Device device() const { return device_; }

 private:
  Device device_;
  std::size_t chunk_bytes_;
  std::vector<Buffer> chunks_;
  Mark top_{};
  std::size_t peak_ = 0;
};

/// Releases on scope exit everything allocated since its construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace strata
