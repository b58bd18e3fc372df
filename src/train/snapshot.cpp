#include "train/snapshot.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/spans.hpp"

namespace strata {

namespace {
constexpr std::size_t piece_bytes = std::size_t{1} << 20;
}

Snapshot::Snapshot(std::vector<Tensor> states, std::size_t most_kept,
                   std::chrono::milliseconds patience, Spare spare)
    : states_(std::move(states)),
      most_kept_(most_kept),
      patience_(patience),
      spare_(std::move(spare)) {
  for (Tensor& state : states_) {
    STRATA_CHECK(state.bytes() == states_[0].bytes(), "states of different sizes");
    if (!(state.device == host_device)) {
      const Tensor there = state;
      copies_.emplace_back(there.dtype, there.shape);
      state = copies_.back();
      memory::copy(state.data, host_device, there.data, there.device, there.bytes());
    }
    for (std::size_t at = 0; at < state.bytes(); at += piece_bytes)
      pieces_.push_back({state.data + at, std::min(piece_bytes, state.bytes() - at)});
  }
  if (!states_.empty()) pieces_a_state_ = pieces_.size() / states_.size();
}

std::size_t Snapshot::read(std::byte* to, std::size_t most) {
  std::size_t filled = 0;
  while (filled < most) {
    // Copied under the lock, which is therefore never held longer than a piece takes.
    const std::lock_guard lock(mutex_);
    if (!abandoned_.empty()) fail(Exit::io, "{}", abandoned_);
    if (next_ == pieces_.size()) break;
    Piece& piece = pieces_[next_];
    const std::size_t n = std::min(most - filled, piece.bytes - used_);
    std::memcpy(to + filled, (piece.kept ? piece.kept.get() : piece.data) + used_, n);
    filled += n;
    used_ += n;
    if (used_ < piece.bytes) continue;
    if (piece.kept) {
      kept_ -= piece.bytes;
      spare_.push_back(std::move(piece.kept));
    }
    piece.was_read = true;
    used_ = 0;
    ++next_;
    progress_.notify_all();
  }
  return filled;
}

void Snapshot::keep(Piece& piece) {
  if (spare_.empty()) spare_.push_back(std::make_unique_for_overwrite<std::byte[]>(piece_bytes));
  piece.kept = std::move(spare_.back());
  spare_.pop_back();
  std::memcpy(piece.kept.get(), piece.data, piece.bytes);
  kept_ += piece.bytes;
}

void Snapshot::before_change(IndexRange elements) {
  if (!copies_.empty() || elements.size() == 0 || pieces_.empty()) return;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const spans::Span span("keep what the checkpoint has not read", "checkpoint");
  const auto element = size_of(states_[0].dtype);
  const std::size_t first = elements.begin * element / piece_bytes;
  const std::size_t last = (elements.end * element - 1) / piece_bytes;
  std::unique_lock lock(mutex_);
  for (std::size_t state = 0; state < states_.size(); ++state)
    for (std::size_t i = first; i <= last; ++i) {
      Piece& piece = pieces_[state * pieces_a_state_ + i];
      const auto is_safe = [&] { return piece.was_read || piece.kept || !abandoned_.empty(); };
      while (!is_safe()) {
        if (kept_ + piece.bytes <= most_kept_) {
          keep(piece);
        } else if (const auto before = next_; !progress_.wait_for(
                       lock, patience_, [&] { return is_safe() || next_ != before; })) {
          abandoned_ = fmt::format("the optimizer waited {:.0f} s for a block of the last state",
                                   std::chrono::duration<double>(patience_).count());
        }
      }
      lock.unlock();  // between pieces the reader may go on
      lock.lock();
    }
  delay_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
}

Snapshot::Spare Snapshot::take_spare() {
  const std::lock_guard lock(mutex_);
  return std::exchange(spare_, {});
}

void Snapshot::abandon(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (abandoned_.empty()) abandoned_ = why;
  progress_.notify_all();
}

void Snapshot::check() const {
  const std::lock_guard lock(mutex_);
  if (!abandoned_.empty()) fail(Exit::io, "{}", abandoned_);
}

double Snapshot::delay_seconds() const {
  const std::lock_guard lock(mutex_);
  return delay_seconds_;
}

}  // namespace strata
