// The host backend's memory, thread count and construction.

#include <omp.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "kernels/host/backend.hpp"

namespace strata::host {

std::unique_ptr<Backend> make_backend(int threads) {
  return std::make_unique<HostBackend>(threads);
}

int default_threads() {
  // libgomp reads OMP_NUM_THREADS and the affinity mask when the process starts.
  static const int threads = omp_get_max_threads();
  return threads;
}

void HostBackend::copy(void* to, const void* from, std::size_t bytes) {
  std::memmove(to, from, bytes);
}

std::unique_ptr<Recording> HostBackend::record(const std::function<void()>& body) {
  call_for_recording(body);
  return nullptr;
}

void* allocate(std::size_t bytes) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  const std::size_t alignment = bytes >= 2 * huge_page ? huge_page : 64;
  const std::size_t size = std::max((bytes + alignment - 1) / alignment * alignment, alignment);
  void* data = bytes > size ? nullptr : std::aligned_alloc(alignment, size);
  if (!data) fail(Exit::internal, "out of memory: {} bytes", bytes);
  if (alignment == huge_page) madvise(data, size, MADV_HUGEPAGE);
  return data;
}

void release(void* data) noexcept {
  std::free(data);
}

}  // namespace strata::host
