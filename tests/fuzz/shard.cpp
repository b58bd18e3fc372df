// A shard's HDF5 metadata, which libhdf5 parses: reached only by who also forges the manifest.

#include <hdf5.h>

#include "data/file_handle.hpp"
#include "data/shard_file.hpp"
#include "fuzz.hpp"

using namespace strata;

// libhdf5 leaves behind a small block of some headers that it refuses.
extern "C" const char* __lsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
  return "leak:libhdf5";
}

STRATA_FUZZ(input) {
  // Metadata caches of megabytes are taken from the free lists.
  static const herr_t unlimited = H5set_free_list_limits(-1, -1, -1, -1, -1, -1);
  (void)unlimited;
  const FileHandle file =
      FileHandle::open_for_reading(fuzz::memory_folder().put("shard.h5", input));
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
      const ShardOffsets at = open_shard_file(file, layout, notes);
      if (at.values + layout.values_bytes() > input.size() || at.crc32c + 8 > input.size())
        std::abort();
    });
}
