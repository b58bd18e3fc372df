// LD_PRELOAD library of the trials: makes one call, or many, of a process to its files go wrong.
// Calls are counted from 1, those alone whose path holds INJECT_UNDER and whose name is in
// INJECT_CALLS.
//
//   INJECT_AT=n      the n-th counted call; INJECT_TIMES=k: it and k - 1 behind it; INJECT_FROM=n:
//                    it and all behind it; INJECT_SHARE=p: p in a hundred, drawn from INJECT_SEED
//   INJECT_DO=x      MEMORY (the process gets INJECT_MB more and no further, then the call), KILL,
//                    an error (EIO ENOSPC EDQUOT ENOENT EINTR), SHORT (at most half is written
//                    or read), SLEEP (INJECT_MS, then the call), LOSE (of isend and irecv: done
//                    without a message)
//   INJECT_TORN=1    half of a write's bytes are in the file before KILL or the error
//   INJECT_FOR_MS=n  only so long after the first counted call
//   INJECT_UNDER=s   part of the path    INJECT_CALLS=a,b    INJECT_RANK=r (mpirun's; alone is 0)
//   INJECT_LOG=path  appends "NUMBER CALL PATH" for each counted call, "!" in front where it went
//                    wrong
//   INJECT_CLOCK=s   CLOCK_REALTIME is s seconds off
//   INJECT_RECORD=path  appends what every rank changed below INJECT_UNDER, as soon as it has:
//                    "CALL OFFSET LENGTHS\n", the path, the second path, the bytes
//                    (strata_trials/power.py)
//
// The path of a message is "message/" and the other rank.
// What a library calls inside itself (fopen's open, fclose's close) is not seen.

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

const char* text(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

long number(const char* name, long otherwise) {
  const char* value = getenv(name);
  return value && *value ? atol(value) : otherwise;
}

int error_of(std::string_view name) {
  constexpr std::pair<std::string_view, int> errors[] = {
      {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"ENOENT", ENOENT}, {"EINTR", EINTR}};
  for (const auto& [known, code] : errors)
    if (known == name) return code;
  return 0;
}

long milliseconds() {
  timespec now{};
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct Plan {
  long at = number("INJECT_AT", 0), times = number("INJECT_TIMES", 1);
  long from = number("INJECT_FROM", 0);
  long share = number("INJECT_SHARE", 0), seed = number("INJECT_SEED", 1);
  long mb = number("INJECT_MB", 0), ms = number("INJECT_MS", 0),
       for_ms = number("INJECT_FOR_MS", 0);
  long clock = number("INJECT_CLOCK", 0);
  bool torn = number("INJECT_TORN", 0) != 0;
  std::string_view what = text("INJECT_DO"), under = text("INJECT_UNDER"),
                   calls = text("INJECT_CALLS");
  int error = error_of(what);
  int log = opened("INJECT_LOG"), record = opened("INJECT_RECORD");
  bool on = number("INJECT_RANK", -1) < 0 ||
            number("INJECT_RANK", -1) == number("OMPI_COMM_WORLD_RANK", 0);

  static int opened(const char* name) {
    if (!*text(name)) return -1;
    return static_cast<int>(
        syscall(SYS_openat, AT_FDCWD, text(name), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  }
};

Plan& plan() {
  static Plan the;
  return the;
}

std::atomic<long> counted{0}, first_ms{0};

bool is_among(std::string_view calls, std::string_view name) {
  if (calls.empty()) return true;
  for (std::size_t begin = 0; begin <= calls.size();) {
    const std::size_t end = std::min(calls.find(',', begin), calls.size());
    if (calls.substr(begin, end - begin) == name) return true;
    begin = end + 1;
  }
  return false;
}

bool draws(long n) {
  std::uint64_t x =
      static_cast<std::uint64_t>(n) * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(plan().seed);
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
  return static_cast<long>((x >> 33) % 100) < plan().share;
}

/// Whether this call is to go wrong.
bool is_hit(const char* call, const char* path) {
  Plan& p = plan();
  if (!p.on || (p.what.empty() && p.log < 0)) return false;
  if (std::strstr(path, text("INJECT_UNDER")) == nullptr || !is_among(p.calls, call)) return false;
  const long n = ++counted;
  if (n == 1) first_ms = milliseconds();
  bool hit = (n >= p.at && n < p.at + p.times && p.at > 0) || (p.from > 0 && n >= p.from) ||
             (p.share > 0 && draws(n));
  if (p.for_ms > 0 && milliseconds() - first_ms > p.for_ms) hit = false;
  if (p.log >= 0) {
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%s%ld %s %s\n", hit ? "!" : "", n, call, path);
    syscall(SYS_write, p.log, line, static_cast<std::size_t>(length));
  }
  return hit;
}

/// What a descriptor leads to; empty where nothing.
struct PathOf {
  char text[PATH_MAX] = "";
  explicit PathOf(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const long n = syscall(SYS_readlink, link, text, sizeof text - 1);
    text[std::max(n, 0L)] = '\0';
  }
};

bool is_hit(const char* call, int fd) {
  const PathOf path(fd);
  return *path.text && is_hit(call, path.text);
}

/// A change that was made. One write of a file that appends: records of all processes are whole,
/// and none is behind that of a later change.
void record(const char* call, const char* path, const char* to = "", off_t offset = 0,
            const void* data = nullptr, std::size_t bytes = 0) {
  if (plan().record < 0 || std::strstr(path, text("INJECT_UNDER")) == nullptr) return;
  char head[128];
  const int length = snprintf(head, sizeof head, "%s %ld %zu %zu %zu\n", call,
                              static_cast<long>(offset), std::strlen(path), std::strlen(to), bytes);
  const iovec parts[] = {{head, static_cast<std::size_t>(length)},
                         {const_cast<char*>(path), std::strlen(path)},
                         {const_cast<char*>(to), std::strlen(to)},
                         {const_cast<void*>(data), bytes}};
  const int error = errno;
  syscall(SYS_writev, plan().record, parts, 4);
  errno = error;
}

/// `status` of a call, recorded where it succeeded.
template <class... Rest>
long recorded(long status, const char* call, const char* path, Rest... rest) {
  if (status >= 0) record(call, path, rest...);
  return status;
}
long recorded(long status, const char* call, int fd, off_t offset = 0, const void* data = nullptr,
              std::size_t bytes = 0) {
  if (status >= 0 && plan().record >= 0) record(call, PathOf(fd).text, "", offset, data, bytes);
  return status;
}

/// From now on the address space grows by so many bytes at most.
void bound_memory(rlim_t more) {
  char text[64] = "";
  const long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/statm", O_RDONLY | O_CLOEXEC);
  syscall(SYS_read, fd, text, sizeof text - 1);
  syscall(SYS_close, fd);
  const rlim_t most = std::strtoul(text, nullptr, 10) * static_cast<rlim_t>(getpagesize()) + more;
  const rlimit limit{most, most};
  setrlimit(RLIMIT_AS, &limit);
}

/// Ends the process, sleeps (true: the call itself follows), or sets errno (false).
bool goes_on() {
  const Plan& p = plan();
  if (p.what == "KILL") {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
  }
  if (p.what == "MEMORY") {
    bound_memory(static_cast<rlim_t>(p.mb) << 20);
    return true;
  }
  if (p.what == "SLEEP") {
    const timespec time{p.ms / 1000, p.ms % 1000 * 1000000};
    nanosleep(&time, nullptr);
    return true;
  }
  errno = p.error;
  return false;
}

/// A call without bytes: `real` unless it goes wrong.
template <class Where, class Real>
auto plain(const char* call, Where where, Real real) -> decltype(real()) {
  if (is_hit(call, where) && plan().what != "SHORT" && !goes_on()) return -1;
  return real();
}

/// A call that moves `bytes`; real(n) moves at most n.
template <class Real>
ssize_t moving(const char* call, int fd, std::size_t bytes, bool writes, Real real) {
  if (!is_hit(call, fd)) return real(bytes);
  if (plan().what == "SHORT") return real(bytes > 1 ? (bytes + 1) / 2 : bytes);
  if (writes && plan().torn && bytes > 1) real(bytes / 2);
  return goes_on() ? real(bytes) : -1;
}

/// `done` bytes were written at the file's position.
long written(int fd, const void* data, long done) {
  if (plan().record < 0 || done <= 0) return done;
  return recorded(done, "write", fd, syscall(SYS_lseek, fd, 0, SEEK_CUR) - done, data,
                  static_cast<std::size_t>(done));
}

/// A message that is neither sent nor received: its request is done from the start.
template <class Real>
int message(const char* call, int peer, MPI_Request* request, Real real) {
  char path[32];
  snprintf(path, sizeof path, "message/%d", peer);
  if (!is_hit(call, path) || plan().what != "LOSE") return real();
  *request = MPI_REQUEST_NULL;
  return MPI_SUCCESS;
}

mode_t mode_of(int flags, va_list& arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

long open_file(int folder, const char* path, int flags, mode_t mode) {
  const long fd =
      plain("open", path, [&] { return syscall(SYS_openat, folder, path, flags, mode); });
  if (fd >= 0 && (flags & O_CREAT) != 0) record("create", path);
  if (fd >= 0 && (flags & O_TRUNC) != 0) record("truncate", path);
  return fd;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return static_cast<int>(open_file(AT_FDCWD, path, flags, mode));
}
int open64(const char* path, int flags, ...) __attribute__((alias("open")));

int openat(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return static_cast<int>(open_file(folder, path, flags, mode));
}
int openat64(int folder, const char* path, int flags, ...) __attribute__((alias("openat")));

ssize_t write(int fd, const void* data, std::size_t bytes) {
  return moving("write", fd, bytes, true,
                [&](std::size_t n) { return written(fd, data, syscall(SYS_write, fd, data, n)); });
}
ssize_t pwrite(int fd, const void* data, std::size_t bytes, off_t offset) {
  return moving("pwrite", fd, bytes, true, [&](std::size_t n) {
    const ssize_t done = syscall(SYS_pwrite64, fd, data, n, offset);
    return recorded(done, "write", fd, offset, data,
                    static_cast<std::size_t>(std::max(done, ssize_t{0})));
  });
}
ssize_t pwrite64(int, const void*, std::size_t, off_t) __attribute__((alias("pwrite")));
ssize_t writev(int fd, const iovec* parts, int count) {
  std::size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += parts[i].iov_len;
  return moving("writev", fd, bytes, true, [&](std::size_t n) {
    if (plan().record < 0 && (n == bytes || count == 0))
      return syscall(SYS_writev, fd, parts, count);
    return written(fd, parts[0].iov_base,
                   syscall(SYS_write, fd, parts[0].iov_base, std::min(n, parts[0].iov_len)));
  });
}
ssize_t read(int fd, void* data, std::size_t bytes) {
  return moving("read", fd, bytes, false,
                [&](std::size_t n) { return syscall(SYS_read, fd, data, n); });
}
ssize_t pread(int fd, void* data, std::size_t bytes, off_t offset) {
  return moving("pread", fd, bytes, false,
                [&](std::size_t n) { return syscall(SYS_pread64, fd, data, n, offset); });
}
ssize_t pread64(int, void*, std::size_t, off_t) __attribute__((alias("pread")));

int fsync(int fd) {
  return static_cast<int>(
      plain("fsync", fd, [&] { return recorded(syscall(SYS_fsync, fd), "fsync", fd); }));
}
int fdatasync(int fd) {
  return static_cast<int>(
      plain("fdatasync", fd, [&] { return recorded(syscall(SYS_fdatasync, fd), "fsync", fd); }));
}
/// The descriptor is gone even where close reports an error.
int close(int fd) {
  if (is_hit("close", fd) && plan().what != "SHORT" && !goes_on()) {
    const int error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return -1;
  }
  return static_cast<int>(syscall(SYS_close, fd));
}
int ftruncate(int fd, off_t length) noexcept {
  return static_cast<int>(plain("ftruncate", fd, [&] {
    return recorded(syscall(SYS_ftruncate, fd, length), "truncate", fd, length);
  }));
}
int ftruncate64(int, off_t) noexcept __attribute__((alias("ftruncate")));
int posix_fallocate(int fd, off_t offset, off_t bytes) {
  const long status =
      plain("fallocate", fd, [&] { return syscall(SYS_fallocate, fd, 0, offset, bytes); });
  return status == 0 ? 0 : errno;
}

int rename(const char* from, const char* to) noexcept {
  return static_cast<int>(plain(
      "rename", to, [&] { return recorded(syscall(SYS_rename, from, to), "rename", from, to); }));
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to,
              unsigned flags) noexcept {
  return static_cast<int>(plain("rename", to, [&] {
    return recorded(syscall(SYS_renameat2, from_folder, from, to_folder, to, flags),
                    (flags & RENAME_EXCHANGE) != 0 ? "exchange" : "rename", from, to);
  }));
}
int mkdir(const char* path, mode_t mode) noexcept {
  return static_cast<int>(plain(
      "mkdir", path, [&] { return recorded(syscall(SYS_mkdir, path, mode), "mkdir", path); }));
}
int link(const char* from, const char* to) noexcept {
  return static_cast<int>(plain("link", to, [&] { return syscall(SYS_link, from, to); }));
}
int unlink(const char* path) noexcept {
  return static_cast<int>(
      plain("unlink", path, [&] { return recorded(syscall(SYS_unlink, path), "unlink", path); }));
}
int rmdir(const char* path) noexcept {
  return static_cast<int>(
      plain("unlink", path, [&] { return recorded(syscall(SYS_rmdir, path), "unlink", path); }));
}
/// std::filesystem removes by folder: the folder's path counts.
int unlinkat(int folder, const char* path, int flags) noexcept {
  const auto real = [&] {
    char whole[PATH_MAX + NAME_MAX + 2];
    if (folder == AT_FDCWD)
      snprintf(whole, sizeof whole, "%s", path);
    else
      snprintf(whole, sizeof whole, "%s/%s", PathOf(folder).text, path);
    return recorded(syscall(SYS_unlinkat, folder, path, flags), "unlink", whole);
  };
  return static_cast<int>(folder == AT_FDCWD ? plain("unlink", path, real)
                                             : plain("unlink", folder, real));
}
int remove(const char* path) noexcept {
  return static_cast<int>(plain("unlink", path, [&] {
    const long status = syscall(SYS_unlink, path);
    return recorded(status != 0 && errno == EISDIR ? syscall(SYS_rmdir, path) : status, "unlink",
                    path);
  }));
}

int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request* request) {
  return message("isend", to, request,
                 [&] { return PMPI_Isend(data, count, type, to, tag, comm, request); });
}
int MPI_Irecv(void* data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
              MPI_Request* request) {
  return message("irecv", from, request,
                 [&] { return PMPI_Irecv(data, count, type, from, tag, comm, request); });
}

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long status = syscall(SYS_clock_gettime, clock, time);
  if (status == 0 && clock == CLOCK_REALTIME && plan().on) time->tv_sec += plan().clock;
  return static_cast<int>(status);
}
int gettimeofday(timeval* time, void*) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  *time = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}
time_t time(time_t* to) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
