#include "data/file_handle.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.hpp"

namespace strata {

FileHandle FileHandle::open_for_reading(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) fail(Exit::data, "{}: no such file", path);
  if (fd < 0) fail_errno(path, "open");
  return {path, fd};
}

FileHandle FileHandle::open_for_writing(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail_errno(path, "open", true);
  return {path, fd};
}

FileHandle::FileHandle(FileHandle&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

FileHandle::~FileHandle() {
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t FileHandle::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_errno(path_, "fstat");
  if (!S_ISREG(status.st_mode)) fail(Exit::data, "{}: not a regular file", path_);
  return static_cast<std::uint64_t>(status.st_size);
}

void FileHandle::read_at(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "pread");
    if (n == 0) fail(Exit::data, "{}: ends at byte {}, {} bytes early", path_, offset, to.size());
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void FileHandle::write_at(std::uint64_t offset, std::span<const std::byte> from) const {
  while (!from.empty()) {
    const ssize_t n = ::pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path_, "pwrite");
    from = from.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void FileHandle::sync_and_close() {
  if (::fsync(fd_) != 0) fail_errno(path_, "fsync");
  if (::close(std::exchange(fd_, -1)) != 0) fail_errno(path_, "close");
}

}  // namespace strata
