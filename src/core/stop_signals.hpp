#pragma once
// A stop is asked for with USR1 or TERM: the handler leaves a note where the ranks of the node see
// it (activity::Board), and work ends at its next unit.

#include <string>

namespace strata {

/// Blocks USR1 and TERM in this thread and those it starts, so that one that comes before the
/// handlers are installed is not lost and does not kill. Call first in main.
void hold_stop_signals();
/// For work that answers no stop: the signals kill again.
void release_stop_signals();

/// Installs the handlers and lets held signals through. They stay for the rest of the process: a
/// signal that comes while it ends must not turn its exit code into another.
class StopSignals {
 public:
  StopSignals();

  /// Whether this rank, or another one of the node, was asked.
  bool requested() const;
  /// "USR1", "TERM" or empty.
  std::string name() const;
};

/// Between two units of work that can be continued: Error(75) when a stop was asked for. Nothing
/// where no StopSignals were made.
void check_stop();

}  // namespace strata
