#pragma once
// The optimizer's state as it was at a step, while the next step already changes it.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/buffer.hpp"
#include "dist/communicator.hpp"

namespace strata {

/// Bytes of some states laid end to end, read once from front to back by one thread. Another thread
/// may go on to change them if it says so first. What it is about to change and was not read yet is
/// copied aside, up to a limit; beyond that it waits for the reader.
class Snapshot {
 public:
  /// At most so many bytes are copied aside.
  static constexpr std::size_t most_kept_bytes = std::size_t{512} << 20;
  /// A reader that gets nowhere for so long loses the snapshot to those who wait for it.
  static constexpr std::chrono::seconds default_patience{10};

  /// Memory for what is copied aside. The next snapshot is given the last one's: to touch fresh
  /// pages takes several times as long as the copying.
  using Spare = std::vector<std::unique_ptr<std::byte[]>>;

  /// states: of equal element counts. Those on a device are copied to the host at once.
  explicit Snapshot(std::vector<Tensor> states, std::size_t most_kept = most_kept_bytes,
                    std::chrono::milliseconds patience = default_patience, Spare spare = {});

  /// Fills `to` with the next bytes: as many as `most`, fewer at the end. Error(74) when abandoned.
  std::size_t read(std::byte* to, std::size_t most);
  /// Elements [begin, end) of every state are about to change.
  void before_change(IndexRange elements);
  /// From now on nothing of the states is read, and `read` and `check` throw.
  void abandon(const std::string& why);
  /// Error(74) when abandoned.
  void check() const;
  /// How long before_change took so far, in all.
  double delay_seconds() const;
  /// When nothing is read any more.
  Spare take_spare();

 private:
  struct Piece {
    const std::byte* data;
    std::size_t bytes;
    bool was_read = false;
    std::unique_ptr<std::byte[]> kept{};
  };
  void keep(Piece& piece);

  std::vector<Tensor> states_;
  std::vector<Buffer> copies_;  // of states on a device
  const std::size_t most_kept_;
  const std::chrono::milliseconds patience_;

  mutable std::mutex mutex_;
  std::condition_variable progress_;
  std::vector<Piece> pieces_;  // state after state
  Spare spare_;
  std::size_t pieces_a_state_ = 0, next_ = 0, used_ = 0, kept_ = 0;
  std::string abandoned_;
  double delay_seconds_ = 0;
};

}  // namespace strata
