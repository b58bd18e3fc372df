#include "core/read_ahead.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace strata {

void read_ahead(const std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t over = reinterpret_cast<std::uintptr_t>(data) % page;
  // A hint: what the system makes of it changes no result.
  ::madvise(const_cast<std::byte*>(data) - over, bytes + over, MADV_WILLNEED);
}

}  // namespace strata
