#pragma once
// MANIFEST.json of a checkpoint: what is where, and how to prove it. Private to checkpoint_*.cpp.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dist/sharding.hpp"
#include "model/parameters.hpp"

namespace strata::checkpoint {

inline constexpr std::int64_t block_bytes = std::int64_t{1} << 20;
inline constexpr const char* manifest_name = "MANIFEST.json";

struct File {
  std::string name;
  std::int64_t bytes = 0;
  std::string sha256;
  std::vector<std::uint32_t> crc32c;  // one a block of block_bytes
};

/// Elements [start, start + count) of a tensor lie at byte `offset` of file `file`.
struct Piece {
  int file = 0;
  std::int64_t offset = 0, start = 0, count = 0;
};

struct ManifestTensor {
  std::string name;
  Shape shape;  // as in the safetensors file
  ParamLayout layout = ParamLayout::plain;
  std::vector<std::vector<Piece>> pieces;  // [kind], ordered by start; they tile the tensor
};

struct Manifest {
  std::int64_t step = 0;
  int world_size = 0;
  std::string config_hash, model_hash, host_json;
  std::vector<std::string> kinds;
  std::vector<File> files;              // one a rank
  std::vector<ManifestTensor> tensors;  // in the model's order of definition

  /// Index into `pieces`, or -1.
  int kind(std::string_view name) const;
};

/// The run of a tensor that a piece of a rank's shard holds.
struct TensorRun {
  ParamId id = no_param;
  std::int64_t start = 0, count = 0;  // of the tensor
  std::int64_t local = 0;             // in the shard
};
/// The runs of every tensor in `pieces` of the table's flat buffer, in flat order.
std::vector<TensorRun> runs_of(const ParameterTable& table, const std::vector<ShardPiece>& pieces);

/// "shard-00000-of-00004.bin"
std::string shard_name(int rank, int world_size);

/// Throws Error(70) unless the pieces of every tensor tile it and those of every file tile the
/// file.
void check_tiles(const Manifest& manifest);
/// The file's content; its last line is the SHA-256 of what stands before.
std::string to_text(const Manifest& manifest);
/// The inverse; Error(65) naming `path` unless every byte is accounted for: hash, schema, bounds,
/// file names, tiles.
Manifest parse_manifest(std::string_view text, const std::string& path);
/// The hash that the text's last line gives.
std::string manifest_hash(std::string_view text);

}  // namespace strata::checkpoint
