#pragma once
// Every failure that a user can see is one exception type with an exit code (the contract's section
// 6).

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace strata {

enum class Exit : int {
  ok = 0,
  usage = 64,          // command line or Strata's own TOML config
  data = 65,           // content or absence of data and model files
  no_checkpoint = 66,  // checkpoints exist but none is valid
  unavailable = 69,    // a service or device needed is not there
  internal = 70,
  cannot_create = 73,
  io = 74,
  requeue = 75,  // stopped on request with a checkpoint saved
  owned = 76,    // output directory is owned by a live job
  permission = 77,
  mismatch = 78,  // checkpoint (or cache) and config disagree
  hang = 86,
  numerics = 87,
  corruption = 88,
  no_progress = 89,
};

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& what) : std::runtime_error(what), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

/// Throws Error(code). The text is one line: file, key, offset, tensor or rank, then what is wrong.
template <class... Args>
[[noreturn]] void fail(Exit code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error for the errno of a failed system call: 77 on EACCES/EPERM, 73 when creating (but
/// for a full or failing disk), else 74.
[[noreturn]] void fail_errno(const std::string& path, const char* call, bool creating = false);

namespace detail {
[[noreturn]] void check_failed(const char* expression, const std::string& message, const char* file,
                               int line);
}

}  // namespace strata

/// Guards our own invariants (exit 70); stays on in release builds.
#define STRATA_CHECK(condition, ...)                                                      \
  do {                                                                                    \
    if (!(condition))                                                                     \
      ::strata::detail::check_failed(#condition, ::fmt::format("" __VA_ARGS__), __FILE__, \
                                     __LINE__);                                           \
  } while (0)
