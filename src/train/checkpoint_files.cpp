#include "train/checkpoint_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "core/activity.hpp"
#include "core/file.hpp"
#include "core/spans.hpp"

namespace strata::checkpoint {

namespace {

static_assert(std::endian::native == std::endian::little, "shard files are little-endian");

/// A file being written; closed without complaint when an error is already on its way.
class NewFile {
 public:
  explicit NewFile(std::string path) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) fail_errno(path_, "open", true);
  }
  ~NewFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  void write(const void* data, std::size_t bytes) {
    if (!write_fully(fd_, {static_cast<const char*>(data), bytes})) fail_errno(path_, "write");
  }
  void finish() {
    if (::fsync(fd_) != 0) fail_errno(path_, "fsync");
    if (::close(std::exchange(fd_, -1)) != 0) fail_errno(path_, "close");
  }

 private:
  std::string path_;
  int fd_ = -1;
};

/// Another rank has just seen or made the file; a network file system may show it here only later.
int open_soon(const std::string& path) {
  for (int attempt = 0;; ++attempt) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0) return fd;
    if (errno != ENOENT || attempt == 30) fail_errno(path, "open");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

File write_shard(const std::string& folder, const std::string& name, Snapshot& states) {
  File file{name};
  NewFile out(folder + "/" + name);
  Sha256 hash;
  std::vector<std::byte> block(block_bytes);
  while (const std::size_t n = states.read(block.data(), block.size())) {
    const spans::Span span("write block", "checkpoint");
    file.crc32c.push_back(crc32c(0, block.data(), n));
    hash.update(block.data(), n);
    out.write(block.data(), n);
    file.bytes += static_cast<std::int64_t>(n);
  }
  out.finish();
  file.sha256 = hash.hex();
  return file;
}

void write_new_file(const std::string& path, std::string_view content) {
  NewFile out(path);
  out.write(content.data(), content.size());
  out.finish();
}

BlockReader::BlockReader(std::string folder, const Manifest& manifest)
    : folder_(std::move(folder)), manifest_(manifest) {}

BlockReader::~BlockReader() {
  if (fd_ >= 0) ::close(fd_);
}

void BlockReader::load_block(int file, std::int64_t block) {
  const File& info = manifest_.files[file];
  const std::string path = folder_ + "/" + info.name;
  activity::beat();
  block_ = -1;
  if (file != open_file_) {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    open_file_ = -1;
    fd_ = open_soon(path);
    open_file_ = file;
  }
  const std::int64_t begin = block * block_bytes;
  data_.resize(std::min(block_bytes, info.bytes - begin));
  const std::int64_t n =
      read_fully_at(fd_, data_.data(), data_.size(), static_cast<std::uint64_t>(begin));
  if (n < 0) fail_errno(path, "pread");
  if (n < std::ssize(data_))
    fail(Exit::data, "{}: ends at byte {} of {}", path, begin + n, info.bytes);
  if (crc32c(0, data_.data(), data_.size()) != info.crc32c[block])
    fail(Exit::data, "{}: bytes {}..{} do not have their CRC-32C", path, begin,
         begin + static_cast<std::int64_t>(data_.size()));
  block_ = block;
}

void BlockReader::read(int file, std::int64_t offset, std::int64_t bytes, std::byte* to) {
  for (std::int64_t at = offset; at < offset + bytes;) {
    const std::int64_t block = at / block_bytes;
    if (file != open_file_ || block != block_) load_block(file, block);
    const std::int64_t begin = at - block * block_bytes;
    const std::int64_t n =
        std::min(static_cast<std::int64_t>(data_.size()) - begin, offset + bytes - at);
    std::memcpy(to + (at - offset), data_.data() + begin, n);
    at += n;
  }
}

void read_elements(BlockReader& reader, const Manifest& manifest, int index, int kind,
                   std::int64_t start, std::int64_t count, float* to) {
  const auto& pieces = manifest.tensors[index].pieces[kind];
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const Piece& p) { return p.start + p.count <= start; });
  for (const std::int64_t end = start + count; start < end; ++piece) {
    STRATA_CHECK(piece != pieces.end() && piece->start <= start);
    const std::int64_t n = std::min(end, piece->start + piece->count) - start;
    const auto bytes = static_cast<std::int64_t>(sizeof(float));
    reader.read(piece->file, piece->offset + (start - piece->start) * bytes, n * bytes,
                reinterpret_cast<std::byte*>(to));
    start += n;
    to += n;
  }
}

std::string read_valid_manifest(const std::string& folder) {
  const std::string path = folder + "/" + manifest_name;
  std::string text = read_file(path);
  const Manifest manifest = parse_manifest(text, path);
  for (const File& file : manifest.files) {
    const std::string name = folder + "/" + file.name;
    struct stat status {};
    if (::lstat(name.c_str(), &status) != 0) fail(Exit::data, "{}: {}", name, std::strerror(errno));
    if (!S_ISREG(status.st_mode)) fail(Exit::data, "{}: not a regular file", name);
    if (status.st_size != file.bytes)
      fail(Exit::data, "{}: {} bytes, not {}", name, status.st_size, file.bytes);
  }
  return text;
}

}  // namespace strata::checkpoint
