#include "core/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/last_words.hpp"

namespace strata {

namespace {

/// What the signal handler may look at: written under the mutex, read at any moment. A row is in
/// use while `begin` is set; `begin` is written last and cleared first.
struct Guard {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> size{0};
  std::array<char, 4096> path{};
};

constexpr int max_guards = 1024;  // further mappings go without a name
std::array<Guard, max_guards> guards;
std::mutex guards_mutex;

struct sigaction before {};  // ours

/// Only async-signal-safe calls from here.
void on_bus_error(int number, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (const Guard& guard : guards) {
    const std::uintptr_t begin = guard.begin.load(std::memory_order_acquire);
    if (begin == 0 || at < begin || at - begin >= guard.size.load()) continue;
    FixedText cause;
    cause.add(guard.path.data()).add(": became shorter, or could not be read, while it was in use");
    say_own_last_words(Exit::io, cause.view(), true);
    ::_exit(static_cast<int>(Exit::io));
  }
  ::sigaction(number, &before,
              nullptr);  // not ours: the access faults again, for the handler before
}

void watch_bus_errors() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGBUS, &action, &before);
  });
}

int add_guard(const std::byte* data, std::size_t size, const std::string& path) {
  watch_bus_errors();
  const std::lock_guard lock(guards_mutex);
  for (int i = 0; i < max_guards; ++i) {
    Guard& guard = guards[i];
    if (guard.begin.load() != 0) continue;
    const std::size_t length = std::min(path.size(), guard.path.size() - 1);
    std::memcpy(guard.path.data(), path.data(), length);
    guard.path[length] = '\0';
    guard.size.store(size);
    guard.begin.store(reinterpret_cast<std::uintptr_t>(data), std::memory_order_release);
    return i;
  }
  return -1;
}

void remove_guard(int guard) {
  const std::lock_guard lock(guards_mutex);
  guards[guard].begin.store(0);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) fail(Exit::data, "{}: no such file", path);
    fail_errno(path, "open");
  }
  struct stat status {};
  const bool known = ::fstat(fd, &status) == 0;
  const bool regular = known && S_ISREG(status.st_mode);
  void* map = nullptr;
  if (regular && status.st_size > 0)
    map = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  ::close(fd);  // the mapping stays
  errno = error;
  if (!known) fail_errno(path, "fstat");
  if (!regular) fail(Exit::data, "{}: not a regular file", path);
  if (map == MAP_FAILED) fail_errno(path, "mmap");
  if (!map) return;
  data_ = static_cast<const std::byte*>(map);
  size_ = static_cast<std::size_t>(status.st_size);
  guard_ = add_guard(data_, size_, path);
}

void MappedFile::let_go(std::size_t begin, std::size_t end) const {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  begin = (begin + page - 1) / page * page;
  end = end / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (guard_ >= 0) remove_guard(guard_);
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      guard_(std::exchange(other.guard_, -1)) {}

}  // namespace strata
