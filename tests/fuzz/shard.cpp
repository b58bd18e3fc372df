// A shard's HDF5 metadata, which libhdf5 parses: reached only by who also forges the manifest.

#include "data/shard_file.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string& path = fuzz::memory_file().holding(input);
  for (const CacheKind kind : {CacheKind::text, CacheKind::latent})
    fuzz::reads([&] {
      const bool text = kind == CacheKind::text;
      ShardLayout layout{kind,
                         CacheDType::bfloat16,
                         text ? std::vector<std::int64_t>{4} : std::vector<std::int64_t>{4, 2, 2},
                         2,
                         text ? 3 : 0,
                         0};
      ShardNotes notes;
      const ShardOffsets at = open_shard_file(path, layout, notes);
      if (at.values + layout.values_bytes() > input.size() || at.crc32c + 8 > input.size())
        std::abort();
    });
}
