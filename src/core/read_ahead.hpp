#pragma once

#include <cstddef>

namespace strata {

/// Bytes of a mapped file that are read soon begin to come from the disk, into memory that the
/// system may take back, while the caller goes on.
void read_ahead(const std::byte* data, std::size_t bytes);

}  // namespace strata
