#pragma once
// Files: whole reads, atomic writes, hashes. Every failure names the path and the call.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's

namespace strata {

/// The whole file; larger than max_bytes is Error(65), missing is Error(65), unreadable 74/77.
std::string read_file(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 31);
/// Writes `path`.tmp-<pid>, fsyncs, renames over `path`, fsyncs the folder. 73/74/77 on failure.
void write_file_atomically(const std::string& path, std::string_view content);
/// The same for content that lies in several places.
void write_file_atomically(const std::string& path, std::span<const std::string_view> pieces);
/// The folder that holds `path`: "." for a bare name.
std::string parent_of(const std::string& path);
/// mkdir -p; Error(73) when it cannot be created.
void make_directories(const std::string& path);
/// Whether a regular file (a folder) is there; Error(77) where a folder on the way may not be
/// searched, 74 where the system cannot tell.
bool file_exists(const std::string& path);
bool directory_exists(const std::string& path);
/// All of `content`, whatever pieces the system takes it in: at the file's position, or at
/// `offset`. False, and errno set, where the system takes no more.
bool write_fully(int fd, std::string_view content);
bool write_fully_at(int fd, std::string_view content, std::uint64_t offset);
/// As many of `bytes` bytes as the file has behind `offset`; -1, and errno set, on an error.
std::int64_t read_fully_at(int fd, void* to, std::size_t bytes, std::uint64_t offset);
/// fsync of a file or a folder.
void sync_path(const std::string& path);

/// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(const void* data, std::size_t bytes);
  /// Lower-case hex digits; once, at the end.
  std::string hex();

 private:
  evp_md_ctx_st* context_;
};
std::string sha256_hex(std::string_view bytes);
std::string sha256_file(const std::string& path);
/// Over the files' bytes laid end to end.
std::string sha256_files(std::span<const std::string> paths);
/// Over the first `bytes` bytes of the file; a shorter file is Error(65).
std::string sha256_prefix(const std::string& path, std::uint64_t bytes);
std::uint64_t xxh3(std::string_view bytes);
/// CRC-32C (Castagnoli), hardware where there is SSE4.2; crc is the running value, 0 at first.
std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t bytes);

}  // namespace strata
