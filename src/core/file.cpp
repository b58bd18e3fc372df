#include "core/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.hpp"

#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

namespace strata {

namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  /// Closes now, so that a late write error of a network file system is seen.
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

int open_for_reading(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) fail(Exit::data, "{}: no such file", path);
    fail_errno(path, "open");
  }
  return fd;
}

/// A read that starts over after a signal; the count is 0 at the end of the file.
std::size_t read_some(int fd, void* data, std::size_t bytes, const std::string& path) {
  for (;;) {
    const ssize_t n = ::read(fd, data, bytes);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EISDIR) fail(Exit::data, "{}: is a folder, not a file", path);
    if (errno != EINTR) fail_errno(path, "read");
  }
}

/// write_some: (what is left, bytes written before) -> what the system call returned.
template <class WriteSome>
bool write_pieces(std::string_view content, WriteSome write_some) {
  for (std::size_t done = 0; done < content.size();) {
    const ssize_t n = write_some(content.substr(done), done);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) done += static_cast<std::size_t>(n);
  }
  return true;
}

#ifndef __SSE4_2__
/// Table of the reflected Castagnoli polynomial.
constexpr std::array<std::uint32_t, 256> crc32c_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}();
#endif

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  STRATA_CHECK(context_ && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() {
  EVP_MD_CTX_free(context_);
}

void Sha256::update(const void* data, std::size_t bytes) {
  STRATA_CHECK(EVP_DigestUpdate(context_, data, bytes) == 1);
}

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest{};
  unsigned length = 0;
  STRATA_CHECK(EVP_DigestFinal_ex(context_, digest.data(), &length) == 1 && length == 32);
  std::string text;
  for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string read_file(const std::string& path, std::uint64_t max_bytes) {
  Descriptor file(open_for_reading(path));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_errno(path, "fstat");
  if (S_ISDIR(status.st_mode)) fail(Exit::data, "{}: is a folder, not a file", path);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes)
    fail(Exit::data, "{}: {} bytes, more than the {} allowed here", path, size, max_bytes);
  std::string content(size + 1, '\0');
  std::size_t filled = 0;
  for (;;) {  // pipes and /proc files have size 0, and a file may grow while it is read
    if (filled == content.size()) content.resize(content.size() + 4096);
    const std::size_t n =
        read_some(file.get(), content.data() + filled, content.size() - filled, path);
    if (n == 0) break;
    filled += n;
    if (filled > max_bytes) fail(Exit::data, "{}: more than {} bytes", path, max_bytes);
  }
  content.resize(filled);
  return content;
}

void write_file_atomically(const std::string& path, std::string_view content) {
  write_file_atomically(path, std::span(&content, 1));
}

void write_file_atomically(const std::string& path, std::span<const std::string_view> pieces) {
  const std::string temporary = fmt::format("{}.tmp-{}", path, ::getpid());
  // What an earlier process of this id left there, or somebody's link, is not written through.
  ::unlink(temporary.c_str());
  Descriptor file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file.valid()) fail_errno(path, "open", true);
  try {
    for (std::string_view piece : pieces)
      if (!write_fully(file.get(), piece)) fail_errno(temporary, "write");
    if (::fsync(file.get()) != 0) fail_errno(temporary, "fsync");
    if (!file.close()) fail_errno(temporary, "close");
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_errno(path, "rename", true);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_path(parent_of(path));
}

bool write_fully(int fd, std::string_view content) {
  return write_pieces(content, [fd](std::string_view left, std::size_t) {
    return ::write(fd, left.data(), left.size());
  });
}

bool write_fully_at(int fd, std::string_view content, std::uint64_t offset) {
  return write_pieces(content, [fd, offset](std::string_view left, std::size_t done) {
    return ::pwrite(fd, left.data(), left.size(), static_cast<off_t>(offset + done));
  });
}

std::int64_t read_fully_at(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t n =
        ::pread(fd, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return static_cast<std::int64_t>(done);
}

std::string parent_of(const std::string& path) {
  std::filesystem::path clean = std::filesystem::path(path).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();  // "a/b/" is "a/b"
  const std::string parent = clean.parent_path().string();
  return parent.empty() ? "." : parent;
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    const auto code =
        error == std::errc::permission_denied ? Exit::permission : Exit::cannot_create;
    fail(code, "{}: mkdir: {}", path, error.message());
  }
  if (!directory_exists(path)) fail(Exit::cannot_create, "{}: exists and is not a folder", path);
}

namespace {
/// Type bits of what `path` leads to; 0 where nothing is.
mode_t type_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return status.st_mode & S_IFMT;
  if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG) return 0;
  fail_errno(path, "stat");  // it may be there or not
}
}  // namespace

bool file_exists(const std::string& path) {
  return type_of(path) == S_IFREG;
}

bool directory_exists(const std::string& path) {
  return type_of(path) == S_IFDIR;
}

void sync_path(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) fail_errno(path, "open");
  // Some file systems cannot sync a folder; a rename there is as durable as it will ever be.
  if (::fsync(file.get()) != 0 && errno != EINVAL) fail_errno(path, "fsync");
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_file(const std::string& path) {
  return sha256_files(std::span(&path, 1));
}

std::string sha256_files(std::span<const std::string> paths) {
  std::vector<char> block(std::size_t{1} << 20);
  Sha256 hash;
  for (const std::string& path : paths) {
    Descriptor file(open_for_reading(path));
    while (const std::size_t n = read_some(file.get(), block.data(), block.size(), path))
      hash.update(block.data(), n);
  }
  return hash.hex();
}

std::string sha256_prefix(const std::string& path, std::uint64_t bytes) {
  std::vector<char> block(std::size_t{1} << 20);
  Sha256 hash;
  Descriptor file(open_for_reading(path));
  for (std::uint64_t left = bytes; left > 0;) {
    const std::size_t n =
        read_some(file.get(), block.data(), std::min<std::uint64_t>(left, block.size()), path);
    if (n == 0) fail(Exit::data, "{}: ends at byte {}, before {}", path, bytes - left, bytes);
    hash.update(block.data(), n);
    left -= n;
  }
  return hash.hex();
}

std::uint64_t xxh3(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(data);
  crc = ~crc;
#ifdef __SSE4_2__
  std::uint64_t wide = crc;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    std::uint64_t word;
    std::memcpy(&word, at, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<std::uint32_t>(wide);
  for (; bytes > 0; --bytes, ++at) crc = _mm_crc32_u8(crc, *at);
#else
  for (; bytes > 0; --bytes, ++at) crc = (crc >> 8) ^ crc32c_table[(crc ^ *at) & 0xffu];
#endif
  return ~crc;
}

}  // namespace strata
