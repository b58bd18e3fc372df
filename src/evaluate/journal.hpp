#pragma once
// Finished rows of a long job, kept until its output file can be written.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "data/file_handle.hpp"

namespace strata {

/// A folder of files with one checked line a row, each file written by one process: a killed job
/// leaves whole lines, and a torn or damaged one counts as not written.
class JournalFolder {
 public:
  /// `dir` belongs to work described by `plan` (any text). Rank 0 calls prepare before anyone
  /// writes: it makes the folder, or finds it. Work of another plan is Error(73), or removed when
  /// overwrite.
  explicit JournalFolder(std::string dir) : dir_(std::move(dir)) {}
  void prepare(const std::string& plan, bool overwrite) const;
  /// What was written, by row. Rows of `rows` and above are ignored.
  std::map<std::size_t, std::string> read(std::size_t rows) const;
  void remove() const;
  const std::string& path() const { return dir_; }

 private:
  std::string dir_;
};

/// The file of one process: new, whatever earlier ones left.
class Journal {
 public:
  Journal(const JournalFolder& folder, int rank);
  void append(std::size_t row, const std::string& text);

 private:
  std::unique_ptr<FileHandle> file_;
  std::uint64_t size_ = 0;
};

}  // namespace strata
