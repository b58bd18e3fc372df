#include "core/error.hpp"

#include <cerrno>
#include <cstring>

namespace strata {

void fail_errno(const std::string& path, const char* call, bool creating) {
  const int error = errno;
  // A disk that is full or fails may be better at the next start: that is 74, whatever the call.
  const bool is_storage = error == ENOSPC || error == EDQUOT || error == EIO;
  Exit code = creating && !is_storage ? Exit::cannot_create : Exit::io;
  if (error == EACCES || error == EPERM) code = Exit::permission;
  fail(code, "{}: {}: {}", path, call, std::strerror(error));
}

namespace detail {
void check_failed(const char* expression, const std::string& message, const char* file, int line) {
  fail(Exit::internal, "{}:{}: {} ({})", file, line, message.empty() ? "invariant broken" : message,
       expression);
}
}  // namespace detail

}  // namespace strata
