#include "data/file_handle.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"

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

void FileHandle::will_read(std::uint64_t offset, std::uint64_t bytes) const {
  // Advice only: a file system that does not take it reads when it is asked to.
  static_cast<void>(::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                                    POSIX_FADV_WILLNEED));
}

void FileHandle::read_at(std::uint64_t offset, std::span<std::byte> to) const {
  const std::int64_t n = read_fully_at(fd_, to.data(), to.size(), offset);
  if (n < 0) fail_errno(path_, "pread");
  const auto there = static_cast<std::uint64_t>(n);
  if (there < to.size())
    fail(Exit::data, "{}: ends at byte {}, {} bytes early", path_, offset + there,
         to.size() - there);
}

void FileHandle::write_at(std::uint64_t offset, std::span<const std::byte> from) const {
  const std::string_view bytes(reinterpret_cast<const char*>(from.data()), from.size());
  if (!write_fully_at(fd_, bytes, offset)) fail_errno(path_, "pwrite");
}

void FileHandle::sync_and_close() {
  if (::fsync(fd_) != 0) fail_errno(path_, "fsync");
  if (::close(std::exchange(fd_, -1)) != 0) fail_errno(path_, "close");
}

}  // namespace strata
