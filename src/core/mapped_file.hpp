#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace strata {

/// A whole file mapped read-only: its pages are shared by every process that maps it.
///
/// A file that is cut short under its readers raises SIGBUS at the first page that is gone. The
/// process then ends with exit code 74 and the file's name instead of a crash.
class MappedFile {
 public:
  /// Error(65) when there is no such regular file, (77) or (74) when it cannot be read. An empty
  /// file has no data.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  /// Bytes [begin, end) are not needed soon: they leave this process's memory, and come back from
  /// the file when they are read again.
  void let_go(std::size_t begin, std::size_t end) const;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int guard_ = -1;  // its row in the table of the SIGBUS handler
};

}  // namespace strata
