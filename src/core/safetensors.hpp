#pragma once
// safetensors: the one format in which weights and tensors come in and go out. The reader is
// bounded: nothing is allocated or read before its size is proven to lie inside the file.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/buffer.hpp"
#include "core/mapped_file.hpp"

namespace strata {

/// A read-only mapping of one file. All failures are Error(65) or (74) naming the file, the tensor
/// and the offset.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  struct Entry {
    std::string dtype;  // as in the file: F32 F16 BF16 I64 I32 U8 ...
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0, end = 0;  // bytes, relative to the data section
  };
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return entries_.contains(name); }

  /// Widened to f32 from F32, F16 or BF16; the file's shape (rank <= 4).
  Buffer read_f32(const std::string& name) const;
  /// I64, or I32 widened.
  Buffer read_i64(const std::string& name) const;
  /// The raw bytes, for tensors kept in their stored type.
  std::string_view raw(const std::string& name) const;
  /// The tensor as it lies in the mapping: F32, F16 or BF16, not to be written to, perhaps not
  /// aligned to its type; it lives as long as the file.
  Tensor view(const std::string& name) const;
  /// The tensor's pages are not needed soon: MappedFile::let_go.
  void let_go(const std::string& name) const;
  const std::string& path() const { return path_; }

 private:
  const Entry& entry(const std::string& name) const;
  Shape shape_of(const std::string& name) const;

  std::string path_;
  MappedFile map_;
  std::size_t data_ = 0;  // offset of the data section
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// A module's weights: one file, or the shards of `*.index.json`; found in `dir` by the usual
/// names.
class SafetensorsFolder {
 public:
  /// stem: "model" or "diffusion_pytorch_model". A folder with only pickle files is Error(65) with
  /// a hint.
  SafetensorsFolder(const std::string& dir, const std::string& stem);
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  Buffer read_f32(const std::string& name) const;
  Tensor view(const std::string& name) const { return file_of(name).view(name); }
  void let_go(const std::string& name) const { file_of(name).let_go(name); }
  const SafetensorsFile::Entry& entry(const std::string& name) const;
  /// SHA-256 over the shard files in name order, hex.
  std::string sha256() const;
  const std::string& path() const { return dir_; }

 private:
  const SafetensorsFile& file_of(const std::string& name) const;
  std::string dir_;
  std::vector<SafetensorsFile> files_;
};

/// Collects tensors and writes them in one go: temporary name, fsync, rename.
class SafetensorsWriter {
 public:
  /// Keeps a view: the tensor must live until `write`. Written in the order added. f32, bf16 or
  /// i64.
  void add(std::string name, Tensor tensor);
  /// The same under another shape of equal size, of any rank.
  void add(std::string name, Tensor tensor, std::vector<std::int64_t> shape);
  /// Takes ownership.
  void add(std::string name, Buffer buffer);
  void set_metadata(std::map<std::string, std::string> metadata) {
    metadata_ = std::move(metadata);
  }
  void write(const std::string& path) const;

 private:
  struct Item {
    std::string name;
    Tensor tensor;
    std::vector<std::int64_t> shape;
  };
  std::vector<Item> items_;
  std::vector<Buffer> owned_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace strata
