#include "train/appended_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace strata {

AppendedFile::AppendedFile(std::string path, int flags) : path_(std::move(path)) {
  make_directories(std::filesystem::path(path_).parent_path().string());
  fd_ = open(path_.c_str(), O_CREAT | O_APPEND | O_CLOEXEC | flags, 0644);
  if (fd_ < 0) fail_errno(path_, "open", true);
}

AppendedFile::~AppendedFile() {
  if (fd_ >= 0) close(fd_);
}

void AppendedFile::append(std::string_view piece) {
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (write_fully(fd_, piece)) return;
  if (!std::exchange(warned_, true))
    log::warn("ALARM: {}: {}: records are lost", path_, std::strerror(errno));
  // The next piece must not be glued to the beginning of this one.
  if (end >= 0) static_cast<void>(ftruncate(fd_, end) == 0);
}

}  // namespace strata
