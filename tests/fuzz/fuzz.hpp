#pragma once
// What the fuzz targets share: one input in, and out of the reader comes a value or an Error that
// blames the data. Anything else ends the process.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/log.hpp"

namespace strata::fuzz {

/// Runs a reader. True: it took the input. Refusals must be of the data (65), the config (64), or
/// of what data and config say of each other (78).
template <class Reader>
bool reads(Reader reader) {
  log::set_quiet(true);
  try {
    reader();
    return true;
  } catch (const Error& error) {
    const Exit code = error.code();
    if (code == Exit::data || code == Exit::usage || code == Exit::mismatch) return false;
    std::fprintf(stderr, "exit %d: %s\n", static_cast<int>(code), error.what());
  }
  std::abort();
}

/// A folder in memory, for readers that take names. Files stay open, and what did not change is not
/// written again: system calls would be most of an execution's time.
class MemoryFolder {
 public:
  MemoryFolder() {
    std::string pattern = "/dev/shm/strata-fuzz-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~MemoryFolder() {
    for (const auto& [name, file] : files_) close(file.fd);
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;

  const std::string& path() const { return path_; }
  /// The file's path.
  const std::string& put(const std::string& name, std::string_view bytes) {
    File& file = files_[name];
    if (file.fd < 0) {
      file.path = path_ + "/" + name;
      file.fd = open(file.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
      file.content.clear();
    }
    if (file.content != bytes) {
      if (file.fd < 0 || !write_fully_at(file.fd, bytes, 0) ||
          (bytes.size() < file.content.size() &&
           ftruncate(file.fd, static_cast<off_t>(bytes.size())) != 0))
        std::abort();
      file.content = bytes;
    }
    return file.path;
  }
  /// A file that is there only when it holds something.
  void put_if_any(const std::string& name, std::string_view bytes) {
    if (!bytes.empty()) {
      put(name, bytes);
    } else if (File& file = files_[name]; file.fd >= 0) {
      close(std::exchange(file.fd, -1));
      unlink(file.path.c_str());
    }
  }

 private:
  struct File {
    int fd = -1;
    std::string path, content;
  };
  std::string path_;
  std::map<std::string, File> files_;
};

/// One for the life of the process: destroyed at its end, so that nothing stays in /dev/shm.
inline MemoryFolder& memory_folder() {
  static MemoryFolder folder;
  return folder;
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// The input cut at lines of four dashes, as many parts as asked for.
template <std::size_t Count>
std::array<std::string_view, Count> parts_of(std::string_view input) {
  constexpr std::string_view cut = "\n----\n";
  std::array<std::string_view, Count> parts{};
  for (std::size_t i = 0; i < Count; ++i) {
    const std::size_t end = i + 1 == Count ? input.npos : input.find(cut);
    parts[i] = input.substr(0, end);
    input = end == input.npos ? std::string_view() : input.substr(end + cut.size());
  }
  return parts;
}

}  // namespace strata::fuzz

#define STRATA_FUZZ(input)                                                            \
  static void fuzz_one(std::string_view input);                                       \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    fuzz_one(strata::fuzz::text_of(data, size));                                      \
    return 0;                                                                         \
  }                                                                                   \
  static void fuzz_one(std::string_view input)
