#pragma once
// A process beside the ranks of a node that sees when one of them hangs or is gone.
//
// A stopped process stops its threads too, so it is a process; it shares nothing with the ranks but
// memory without a name (activity::Board), which goes with the last of them. It is a child of the
// node's first rank, because launchers know only ranks; it outlives none of them.

#include <cstdint>
#include <functional>

#include "core/activity.hpp"
#include "dist/communicator.hpp"

namespace strata {

/// One in main, constructed before anything that starts a thread, Job included.
class Monitor {
 public:
  /// On the node's first rank: starts the process. On others one that goes when they have joined:
  /// it sees to a launcher that does not survive a rank that died before.
  Monitor();
  /// This rank has ended well; the process ends with the node's first rank.
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  /// Collective: from now on the node's monitor sees this rank.
  void join(Communicator& world);

 private:
  void start(const std::function<void(int alive)>& watch);
  void end();

  activity::Board* board_ = nullptr;
  int memory_ = -1;  // the board's, where this process has made it
  int alive_ = -1;   // a pipe whose end tells the process that this one has ended
  int child_ = 0;
};

/// Ranks that are silent for `seconds` are ended with exit code 86 (slow sections and the first
/// step have ten times as long, and a section five times its longest silence so far). 0: never.
/// Last words go to `note` (exit.json) and `log` as long as the file `claim` is there.
void watch_for_hangs(double seconds);

}  // namespace strata
