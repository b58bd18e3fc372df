#pragma once
// Weights in a backend's layouts, once for all processes of a machine that compute with the same
// weights.
//
// What a reader may rely on: a layout is overwritten only by one of a later version, and only once
// every user has left the earlier one (weights_changed), so nobody reads what is being written.
// Nobody waits either: who finds a layout in the making, or users that are behind, makes a copy of
// its own for that use.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/exec.hpp"

namespace strata {

class SharedLayouts {
 public:
  /// Bytes to map for `layouts` bytes of layouts of `users` processes.
  static std::int64_t bytes_for(std::int64_t layouts, int users);

  /// memory: `bytes` of zeros that each of `users` processes maps somewhere; user: which one this
  /// is. One object a process and memory, for one thread.
  SharedLayouts(std::shared_ptr<std::byte> memory, std::int64_t bytes, int user, int users);

  /// One layout of one weight.
  struct Slot;
  /// The slot of this key (not 0), which stands for the weight and all of the layout, with `bytes`
  /// for it. Null where another process is just making it, or where there is no room.
  Slot* slot(std::uint64_t key, std::int64_t bytes);
  std::byte* data(const Slot& slot) const;

  enum class Turn {
    read,       // the layout of this version is there
    write,      // it is this process's to write; then written()
    elsewhere,  // neither: use a copy of one's own
  };
  Turn turn(Slot& slot);
  void written(Slot& slot);

  /// This process reads none of the layouts any more. Every user calls it equally often; between
  /// two calls the weights are the same to the bit in all of them.
  void weights_changed();

  /// Bytes in use, of all users together.
  std::int64_t used() const;

 private:
  struct Header;
  Header& header() const;
  std::uint64_t* versions() const;
  Slot* slots() const;
  bool all_have_reached(std::uint64_t version) const;

  std::shared_ptr<std::byte> memory_;
  std::int64_t bytes_;
  int user_, users_;
  std::uint64_t version_ = 1;
  bool was_full_ = false;
};

/// From now on the layouts that this Exec keeps of weights inside of `weights` are those of
/// `shared`. Not of the Execs of for_each_task, which keep their own. Nothing on a device.
void share_layouts(Exec& exec, const std::shared_ptr<SharedLayouts>& shared, Tensor weights);
/// Bytes of those, of all users together; Exec::layout_bytes counts what is this Exec's alone.
std::int64_t shared_layout_bytes(Exec& exec);

}  // namespace strata
