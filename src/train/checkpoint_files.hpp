#pragma once
// File access of checkpoints. Private to checkpoint_*.cpp.

#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/snapshot.hpp"

namespace strata::checkpoint {

/// Writes the states one after the other to a new file (O_EXCL), block by block from a copy that is
/// hashed before it is written, then syncs it. Errors 73/74/77; a failed fsync is never repeated.
File write_shard(const std::string& folder, const std::string& name, Snapshot& states);
/// A new file with this content, synced.
void write_new_file(const std::string& path, std::string_view content);

/// Reads parts of a checkpoint's files; every block that is touched is checked against its CRC-32C.
class BlockReader {
 public:
  BlockReader(std::string folder, const Manifest& manifest);
  ~BlockReader();
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;
  /// [offset, offset + bytes) of a file, which parse_manifest has proven to lie inside it.
  /// Error(65) naming file and block on damage. Fast when calls go through a file in order.
  void read(int file, std::int64_t offset, std::int64_t bytes, std::byte* to);

 private:
  void load_block(int file, std::int64_t block);

  std::string folder_;
  const Manifest& manifest_;
  int fd_ = -1, open_file_ = -1;
  std::int64_t block_ = -1;
  std::vector<std::byte> data_;
};

/// Elements [start, start + count) of tensor `index` in state `kind` -> to (f32, host).
void read_elements(BlockReader& reader, const Manifest& manifest, int index, int kind,
                   std::int64_t start, std::int64_t count, float* to);

/// The manifest's text after it was parsed and the files' sizes were compared with it; Error(65).
std::string read_valid_manifest(const std::string& folder);

}  // namespace strata::checkpoint
