#pragma once
// The HDF5 side of a shard: libhdf5 lays the file out; all bytes of the datasets are then written
// and read at their offsets without it.

#include <cstdint>
#include <string>
#include <vector>

#include "data/cache_format.hpp"
#include "data/file_handle.hpp"

namespace strata {

struct ShardLayout {
  CacheKind kind = CacheKind::text;
  CacheDType dtype = CacheDType::bfloat16;
  std::vector<std::int64_t> shape;  // as in the manifest
  std::int64_t rows = 0, tokens = 0;
  std::int64_t pooled_dim = 0;  // 0: no /pooled

  std::int64_t value_rows() const { return kind == CacheKind::text ? tokens : rows; }
  bool has_scale() const { return dtype == CacheDType::int8; }
  CacheDType pooled_dtype() const { return has_scale() ? CacheDType::float32 : dtype; }
  std::uint64_t row_bytes() const;  // of one token (text) or sample (latent) in /values
  std::uint64_t values_bytes() const;
  std::uint64_t pooled_row_bytes() const;
};

/// Byte offsets in the file; `values` is the last dataset and reaches to the file's end.
struct ShardOffsets {
  std::uint64_t values = 0, offsets = 0, sample = 0, crc32c = 0, scale = 0, pooled = 0;
};

/// Texts that a shard carries as attributes of its root.
struct ShardNotes {
  std::string provenance;
  std::string head_sha256;  // CacheManifest::head_sha256; empty in caches made before there was one
};

/// Creates `path` (replacing it) with every dataset allocated. Nothing in the file depends on time,
/// host or process.
ShardOffsets create_shard_file(const std::string& path, const ShardLayout& layout,
                               const ShardNotes& notes);

/// Where the datasets lie, of a file that holds exactly those of `layout` (pooled_dim is filled
/// in): contiguous, inside the file, no filter, no external storage, no other link. Error(65)
/// otherwise, whatever the bytes; no other file is opened.
ShardOffsets open_shard_file(const FileHandle& shard, ShardLayout& layout, ShardNotes& notes);

}  // namespace strata
