#pragma once
// Private to src/dist/monitor*.cpp.

#include "core/activity.hpp"

namespace strata {

/// The signal that a rank answers by ending with 86.
int hang_signal();

/// What the monitor's process does until the ranks of its node are gone. launcher: their parent,
/// or 0 where they need none. alive: a pipe that ends with the node's first rank.
[[noreturn]] void watch_ranks(activity::Board& board, int launcher, int alive);

/// What a process does beside a rank that has not joined the others yet: when `alive` ends, the
/// rank is gone, and its launcher must end, too.
[[noreturn]] void watch_start(int launcher, int alive);

/// Open MPI's segments in /dev/shm are its launcher's to remove; this removes those of this job
/// when the launcher can no longer.
void remove_launchers_segments();

}  // namespace strata
