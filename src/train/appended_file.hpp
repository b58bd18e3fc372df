#pragma once
// Records that stop no training.

#include <string>
#include <string_view>

namespace strata {

/// A file that grows by whole pieces. One that cannot be written is lost, with one warning.
class AppendedFile {
 public:
  /// flags: of open, beside writing at the end. Error(73) or (77).
  AppendedFile(std::string path, int flags);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  void append(std::string_view piece);
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
  bool warned_ = false;
};

}  // namespace strata
