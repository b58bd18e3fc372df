#include "core/error.hpp"

#include <cerrno>
#include <cstring>

namespace strata {

void fail_errno(const std::string& path, const char* call, bool creating) {
  const int error = errno;
  Exit code = creating ? Exit::cannot_create : Exit::io;
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
