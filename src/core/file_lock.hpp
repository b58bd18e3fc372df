#pragma once
// A file that says that a job on its folder is alive.

#include <string>

namespace strata {

/// The lock of one file, which is made where there is none; given back by destruction or by the
/// process's death, whatever ends it.
class FileLock {
 public:
  FileLock() = default;
  /// Error(76) naming `what` (a folder) when another live process holds it.
  FileLock(const std::string& path, const std::string& what);
  ~FileLock();
  FileLock(FileLock&&) noexcept;
  FileLock& operator=(FileLock&&) noexcept;

 private:
  int fd_ = -1;
};

}  // namespace strata
