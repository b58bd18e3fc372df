#pragma once
// One open file read and written at given offsets; every failure names the path.

#include <cstdint>
#include <span>
#include <string>

namespace strata {

class FileHandle {
 public:
  /// Missing is Error(65), unreadable 74 or 77.
  static FileHandle open_for_reading(const std::string& path);
  /// An existing file, for writing into it.
  static FileHandle open_for_writing(const std::string& path);
  FileHandle(FileHandle&& other) noexcept;
  FileHandle& operator=(FileHandle&&) = delete;
  ~FileHandle();

  std::uint64_t size() const;
  /// All of `to`; where the file ends earlier is Error(65). Thread-safe.
  /// These bytes will be read soon; the system may fetch them now.
  void will_read(std::uint64_t offset, std::uint64_t bytes) const;
  void read_at(std::uint64_t offset, std::span<std::byte> to) const;
  void write_at(std::uint64_t offset, std::span<const std::byte> from) const;
  /// fsync and close, both checked.
  void sync_and_close();
  const std::string& path() const { return path_; }

 private:
  FileHandle(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

}  // namespace strata
