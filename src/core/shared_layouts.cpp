#include "core/shared_layouts.hpp"

#include <atomic>

#include "core/error.hpp"
#include "core/log.hpp"

namespace strata {

namespace {

constexpr std::int64_t line = 64;
constexpr std::int64_t slot_count = std::int64_t{1} << 14;

std::int64_t in_lines(std::int64_t bytes) {
  return (bytes + line - 1) / line * line;
}

std::atomic_ref<std::uint64_t> atomic(std::uint64_t& value) {
  return std::atomic_ref(value);
}

/// The state of a slot: the version that it holds or is to hold.
constexpr std::uint64_t in_the_making(std::uint64_t version) {
  return 2 * version;
}
constexpr std::uint64_t there(std::uint64_t version) {
  return 2 * version + 1;
}

}  // namespace

// All in the memory that is shared, which begins as zeros.
struct SharedLayouts::Header {
  std::uint64_t used;  // bytes, of the layouts alone
};
struct SharedLayouts::Slot {
  std::uint64_t key;    // 0: free
  std::uint64_t place;  // from the beginning of the memory; 0: not known yet
  std::uint64_t state;
};

SharedLayouts::Header& SharedLayouts::header() const {
  return *reinterpret_cast<Header*>(memory_.get());
}
std::uint64_t* SharedLayouts::versions() const {
  return reinterpret_cast<std::uint64_t*>(memory_.get() + line);
}
SharedLayouts::Slot* SharedLayouts::slots() const {
  return reinterpret_cast<Slot*>(memory_.get() + bytes_for(0, users_)) - slot_count;
}

std::int64_t SharedLayouts::bytes_for(std::int64_t layouts, int users) {
  const auto tables = line + users * static_cast<std::int64_t>(sizeof(std::uint64_t)) +
                      slot_count * static_cast<std::int64_t>(sizeof(Slot));
  return in_lines(tables) + in_lines(layouts);
}

SharedLayouts::SharedLayouts(std::shared_ptr<std::byte> memory, std::int64_t bytes, int user,
                             int users)
    : memory_(std::move(memory)), bytes_(bytes), user_(user), users_(users) {
  STRATA_CHECK(bytes_ >= bytes_for(0, users_) && user_ < users_);
  atomic(versions()[user_]).store(version_, std::memory_order_release);
}

SharedLayouts::Slot* SharedLayouts::slot(std::uint64_t key, std::int64_t bytes) {
  for (std::int64_t probe = 0; probe < slot_count; ++probe) {
    Slot& at = slots()[(key + static_cast<std::uint64_t>(probe)) % slot_count];
    std::uint64_t found = 0;
    if (atomic(at.key).compare_exchange_strong(found, key)) {
      const auto first = static_cast<std::uint64_t>(bytes_for(0, users_));
      const auto size = static_cast<std::uint64_t>(in_lines(bytes));
      const std::uint64_t begin = first + atomic(header().used).fetch_add(size);
      if (begin + size > static_cast<std::uint64_t>(bytes_)) break;
      atomic(at.place).store(begin, std::memory_order_release);
      return &at;
    }
    if (found == key) return atomic(at.place).load(std::memory_order_acquire) > 0 ? &at : nullptr;
  }
  if (!was_full_) log::warn("the memory for shared weight layouts is full: others are kept apart");
  was_full_ = true;
  return nullptr;
}

std::byte* SharedLayouts::data(const Slot& slot) const {
  return memory_.get() + slot.place;
}

bool SharedLayouts::all_have_reached(std::uint64_t version) const {
  for (int user = 0; user < users_; ++user)
    if (atomic(versions()[user]).load(std::memory_order_acquire) < version) return false;
  return true;
}

SharedLayouts::Turn SharedLayouts::turn(Slot& slot) {
  std::uint64_t state = atomic(slot.state).load(std::memory_order_acquire);
  if (state == there(version_)) return Turn::read;
  // Of this version and in the making, or of one that this process has not reached.
  if (state >= in_the_making(version_)) return Turn::elsewhere;
  if (!all_have_reached(version_)) return Turn::elsewhere;
  const bool is_mine = atomic(slot.state).compare_exchange_strong(state, in_the_making(version_));
  return is_mine ? Turn::write : Turn::elsewhere;
}

void SharedLayouts::written(Slot& slot) {
  atomic(slot.state).store(there(version_), std::memory_order_release);
}

void SharedLayouts::weights_changed() {
  ++version_;
  atomic(versions()[user_]).store(version_, std::memory_order_release);
}

std::int64_t SharedLayouts::used() const {
  const auto used = static_cast<std::int64_t>(atomic(header().used).load());
  return std::min(used, bytes_ - bytes_for(0, users_));
}

}  // namespace strata
