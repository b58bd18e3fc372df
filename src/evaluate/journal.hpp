#pragma once
// Finished rows of a long job, kept until its output file can be written.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/file_lock.hpp"
#include "data/file_handle.hpp"

namespace strata {

/// A folder of files with one checked line a row, each file written by one process: a killed job
/// leaves whole lines, and a torn or damaged one counts as not written.
class JournalFolder {
 public:
  explicit JournalFolder(std::string dir) : dir_(std::move(dir)) {}
  /// Rank 0, before anyone writes: makes the folder, or finds it, and takes its lock (Error(76)
  /// when another live job holds it). It belongs to work described by `plan` (any text); work of
  /// another plan is Error(73), or removed when overwrite.
  void prepare(const std::string& plan, bool overwrite);
  /// Calls take with every line that was written; a row may come twice.
  void read(const std::function<void(std::size_t row, std::string&& text)>& take) const;
  void remove() const;
  const std::string& path() const { return dir_; }

 private:
  std::string dir_;
  FileLock lock_;
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
