#pragma once
// What an HDF5 file says of itself, as far as a cache needs it: a root group of few datasets that
// lie contiguously, and texts as attributes (HDF5 file format 3.0, superblocks 2 and 3).
//
// libhdf5 is not asked. 1.10, which is Debian 12's, frees, follows and allocates what forged
// metadata tells it to; here every address, length and count is proven before it is used. The
// checksums of the metadata are not looked at: a cache's manifest covers the same bytes.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/file_handle.hpp"

namespace strata {

/// Little-endian numbers, floats as IEEE has them.
enum class Hdf5Type { int64, uint32, uint16, int8, float16, float32 };
std::string_view name_of(Hdf5Type type);

struct Hdf5Dataset {
  std::optional<Hdf5Type> type;  // absent: another one
  std::vector<std::uint64_t> extents;
  std::optional<std::uint64_t> offset;       // in the file, not proven; absent: nowhere yet
  std::map<std::string, std::string> texts;  // its attributes that are one string each
};

struct Hdf5File {
  std::map<std::string, Hdf5Dataset> datasets;
  std::map<std::string, std::string> texts;  // the root group's
};

/// Error(65) naming file and place where it is not such a file: other versions, links that are not
/// hard, subgroups, datasets that are chunked, virtual, filtered or external.
Hdf5File read_hdf5(const FileHandle& file);

}  // namespace strata
