// Device memory: ordered with the ops of every Exec of the device, because all of it happens in the
// legacy default stream (see runtime.hpp).

#include "kernels/backend.hpp"
#include "kernels/cuda/runtime.hpp"

namespace strata {

Device cuda_device(int local_rank, int local_size) {
  int count = 0;
  STRATA_CUDA(cudaGetDeviceCount(&count));
  if (count == 0) fail(Exit::unavailable, "device cuda: no device is visible");
  // Batch systems often show each rank its own device only: then every rank takes the first.
  if (count > 1 && local_size > count)
    fail(Exit::unavailable, "device cuda: {} ranks on this machine and {} devices", local_size,
         count);
  const Device device{DeviceKind::cuda, static_cast<std::int8_t>(local_rank % count)};
  int major = 0;
  STRATA_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  if (major < 8)
    fail(Exit::unavailable,
         "device cuda: compute capability {}.x; strata is built for 8.0 (A100) and 9.0 (H100)",
         major);
  return device;
}

namespace cuda {

void* allocate(Device device, std::size_t bytes) {
  use(device);
  void* data = nullptr;
  const cudaError_t status =
      cudaMallocAsync(&data, std::max<std::size_t>(bytes, 1), cudaStreamLegacy);
  if (status == cudaErrorMemoryAllocation) {
    std::size_t left = 0, total = 0;
    cudaMemGetInfo(&left, &total);
    cudaGetLastError();  // this error is not sticky: what follows shall not report it again
    fail(Exit::internal, "out of device memory: {} bytes asked for, {} of {} free", bytes, left,
         total);
  }
  STRATA_CUDA(status);
  return data;
}

void release(Device device, void* data) noexcept {
  if (cudaSetDevice(device.index) == cudaSuccess) cudaFreeAsync(data, cudaStreamLegacy);
}

void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (bytes == 0) return;
  use(to_device.kind == DeviceKind::cuda ? to_device : from_device);
  STRATA_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}

void* allocate_visible(Device device, std::size_t bytes) {
  use(device);
  void* data = nullptr;
  STRATA_CUDA(cudaMallocManaged(&data, std::max<std::size_t>(bytes, 1)));
  return data;
}

void release_visible(void* data) noexcept {
  cudaFree(data);
}

void* allocate_pinned(Device device, std::size_t bytes) {
  use(device);
  void* data = nullptr;
  const cudaError_t status =
      cudaHostAlloc(&data, std::max<std::size_t>(bytes, 1), cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(Exit::internal, "out of pinned memory: {} bytes asked for", bytes);
  }
  STRATA_CUDA(status);
  return data;
}

void release_pinned(void* data) noexcept {
  cudaFreeHost(data);
}

}  // namespace cuda
}  // namespace strata
