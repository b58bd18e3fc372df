// A shard's HDF5 metadata, of which nothing is known but that somebody may have made it.

#include "data/file_handle.hpp"
#include "data/shard_file.hpp"
#include "fuzz.hpp"
#include "shard_input.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string bytes = fuzz::shard_file(input);
  const FileHandle file =
      FileHandle::open_for_reading(fuzz::memory_folder().put("shard.h5", bytes));
  // Asked for is what its links make it look like.
  const bool is_text = bytes.find("offsets") != bytes.npos;
  ShardLayout layout;
  layout.kind = is_text ? CacheKind::text : CacheKind::latent;
  layout.dtype = bytes.find("scale") != bytes.npos ? CacheDType::int8 : CacheDType::bfloat16;
  layout.shape = is_text ? std::vector<std::int64_t>{4} : std::vector<std::int64_t>{4, 2, 2};
  layout.rows = 2;
  layout.tokens = is_text ? 3 : 0;
  fuzz::reads([&] {
    ShardNotes notes;
    const ShardOffsets at = open_shard_file(file, layout, notes);
    if (at.values + layout.values_bytes() > bytes.size() || at.crc32c + 8 > bytes.size())
      std::abort();
  });
}
