#include "kernels/cuda/backend.hpp"

namespace strata::cuda {

namespace {
Device selected(Device device) {
  use(device);
  // Freed memory stays with the process: giving it back to the system waits for the device.
  cudaMemPool_t pool = nullptr;
  std::uint64_t everything = ~std::uint64_t{0};
  STRATA_CUDA(cudaDeviceGetDefaultMemPool(&pool, device.index));
  STRATA_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &everything));
  return device;
}

int capability_of(Device device) {
  int major = 0, minor = 0;
  STRATA_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  STRATA_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  return 10 * major + minor;
}
}  // namespace

std::unique_ptr<Backend> make_backend(Device device) {
  return std::make_unique<CudaBackend>(device);
}

CudaBackend::CudaBackend(Device device)
    : device_(selected(device)), compute_capability_(capability_of(device)) {}

cudaStream_t CudaBackend::stream() {
  use(device_);
  return stream_;
}

void CudaBackend::synchronize() {
  STRATA_CUDA(cudaStreamSynchronize(stream()));
}

void CudaBackend::wait_for(Backend& other) {
  auto& before = static_cast<CudaBackend&>(other);  // Exec checked that the devices are the same
  STRATA_CUDA(cudaEventRecord(before.reached_, before.stream()));
  STRATA_CUDA(cudaStreamWaitEvent(stream(), before.reached_, 0));
}

Tensor CudaBackend::upload(Exec& exec, const Tensor& host) {
  const Tensor there = exec.empty(host.dtype, host.shape);
  staging_.upload(there.data, host.data, host.bytes(), stream());
  return there;
}

}  // namespace strata::cuda
