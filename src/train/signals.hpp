#pragma once
// A stop is asked for with USR1 or TERM: the handler sets a flag, and the ranks agree on the step.

#include <string>

namespace strata {

/// Blocks USR1 and TERM in this thread and those it starts, so that one that comes before the
/// handlers are installed is not lost and does not kill. Call first in main.
void hold_stop_signals();

/// Installs the handlers and lets held signals through. They stay for the rest of the process: a
/// signal that comes while it ends must not turn its exit code into another.
class StopSignals {
 public:
  StopSignals();

  bool requested() const;
  /// "USR1", "TERM" or empty.
  std::string name() const;
};

}  // namespace strata
