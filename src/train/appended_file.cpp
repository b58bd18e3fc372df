#include "train/appended_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
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
  std::size_t done = 0;
  while (done < piece.size()) {
    const ssize_t n = write(fd_, piece.data() + done, piece.size() - done);
    if (n < 0 && errno != EINTR) break;
    if (n > 0) done += static_cast<std::size_t>(n);
  }
  if (done == piece.size()) return;
  if (!std::exchange(warned_, true))
    log::warn("ALARM: {}: {}: records are lost", path_, std::strerror(errno));
  // The next piece must not be glued to the beginning of this one.
  struct stat status {};
  if (done > 0 && fstat(fd_, &status) == 0)
    static_cast<void>(ftruncate(fd_, status.st_size - static_cast<off_t>(done)) == 0);
}

}  // namespace strata
