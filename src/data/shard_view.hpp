#pragma once
// How libhdf5 reads a shard: through the file that we have open, and no heap that would lead it
// astray.

#include <hdf5.h>

#include "data/file_handle.hpp"

namespace strata {

/// A file access property list under which H5Fopen reads `file`, whatever name it is given;
/// negative when libhdf5 refuses. Heaps of strings that it would follow in circles or past its
/// buffers are read errors, and so is the raw data of datasets. `file` must outlive what is opened.
hid_t shard_view(const FileHandle& file);

}  // namespace strata
