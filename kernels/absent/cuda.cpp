// Linked where Strata is built without CUDA: nothing can be made on a CUDA device, so no op can be
// called on one.

#include "core/collectives.hpp"
#include "kernels/backend.hpp"

namespace strata {

namespace {
[[noreturn]] void absent() {
  fail(Exit::unavailable, "device cuda: this build of strata has no CUDA backend");
}
}  // namespace

Device cuda_device(int, int) {
  absent();
}
std::string collectives_id() {
  absent();
}
std::unique_ptr<DeviceCollectives> make_collectives(Device, const std::string&, int, int) {
  absent();
}

namespace cuda {

std::unique_ptr<Backend> make_backend(Device) {
  absent();
}
void* allocate(Device, std::size_t) {
  absent();
}
void release(Device, void*) noexcept {}
void copy(void*, Device, const void*, Device, std::size_t) {
  absent();
}
void* allocate_visible(Device, std::size_t) {
  absent();
}
void release_visible(void*) noexcept {}
void* allocate_pinned(Device, std::size_t) {
  absent();
}
void release_pinned(void*) noexcept {}

}  // namespace cuda
}  // namespace strata
