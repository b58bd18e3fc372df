#pragma once
// The last line of stderr and exit.json from where nothing may be allocated or locked: a signal
// handler, or the monitor beside the ranks.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.hpp"

namespace strata {

/// Text in a buffer of its own; what does not fit is cut off.
class FixedText {
 public:
  FixedText& add(std::string_view text);
  FixedText& add(std::int64_t value);
  std::string_view view() const { return {text_, length_}; }

 private:
  char text_[1536];
  std::size_t length_ = 0;
};

/// "strata: error: <cause>" as one line of stderr, and exit.json {code, rank, cause, restart} where
/// the process's board says, unless there is one already or another job has taken the folder over.
/// cause: no quotes, backslashes or controls. Async-signal-safe.
void say_last_words(int code, int rank, std::string_view cause, bool restart);
/// The same of this process, whose life is failing from then on; what is left to it is to end.
void say_own_last_words(Exit code, std::string_view cause, bool restart);

/// A crash (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) leaves both behind and ends with 70; where
/// core dumps are allowed it dumps one instead of the exit code.
void answer_crashes();

}  // namespace strata
