#include "kernels/cuda/runtime.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/backend.hpp"

namespace strata::cuda {

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  const bool no_device = status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ||
                         status == cudaErrorInvalidDevice || status == cudaErrorStubLibrary ||
                         status == cudaErrorSystemDriverMismatch ||
                         status == cudaErrorSystemNotReady ||
                         status == cudaErrorNoKernelImageForDevice;
  if (no_device)
    fail(Exit::unavailable, "device cuda: {}: {} ({}:{})", call, cudaGetErrorString(status), file,
         line);
  fail(Exit::internal, "{}: {}: {} ({}:{})", call, cudaGetErrorName(status),
       cudaGetErrorString(status), file, line);
}

void check(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(Exit::internal, "{}: {} ({}:{})", call, cublasLtGetStatusString(status), file, line);
}

void check_launch(const char* kernel, const char* file, int line) {
  check(cudaGetLastError(), kernel, file, line);
}

void use(Device device) {
  STRATA_CHECK(device.kind == DeviceKind::cuda, "not a CUDA device");
  STRATA_CUDA(cudaSetDevice(device.index));
}

std::byte* workspace(Exec& exec, std::int64_t bytes) {
  constexpr std::int64_t alignment = 256;
  std::byte* data = exec.empty(DType::u8, {bytes + alignment}).data;
  const auto over = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) % alignment);
  return data + (alignment - over) % alignment;
}

Stream::Stream(unsigned flags) {
  STRATA_CUDA(cudaStreamCreateWithFlags(&stream_, flags));
}
Stream::~Stream() {
  cudaStreamDestroy(stream_);
}

Event::Event() {
  STRATA_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
}
Event::~Event() {
  cudaEventDestroy(event_);
}

bool CudaMoment::is_reached() const {
  forbid_while_recording("ask the device");
  use(device_);
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();  // no error: the next launch shall not report it
    return false;
  }
  STRATA_CUDA(status);
  return true;
}

const std::byte* KeptUploads::keep(const void* from, std::size_t bytes) {
  STRATA_CHECK(used_ + bytes <= most_bytes, "host tensors of {} bytes in a recording",
               used_ + bytes);
  std::byte* at = memory_.data() + used_;
  std::memcpy(at, from, bytes);
  used_ += (bytes + 15) / 16 * 16;
  return at;
}

CudaRecording::CudaRecording(Device device, cudaStream_t stream, cudaGraph_t graph,
                             std::unique_ptr<KeptUploads> kept)
    : device_(device), stream_(stream), kept_(std::move(kept)) {
  STRATA_CUDA(cudaGraphInstantiate(&executable_, graph, 0));
}

CudaRecording::~CudaRecording() {
  cudaGraphExecDestroy(executable_);
}

void CudaRecording::play() {
  forbid_while_recording("play a recording");
  use(device_);
  STRATA_CUDA(cudaGraphLaunch(executable_, stream_));
}

MatmulHandle::MatmulHandle() {
  STRATA_CUDA(cublasLtCreate(&handle_));
}
MatmulHandle::~MatmulHandle() {
  cublasLtDestroy(handle_);
}

Staging::Staging() {
  void* memory = nullptr;
  STRATA_CUDA(cudaHostAlloc(&memory, 2 * half_bytes, cudaHostAllocDefault));
  memory_ = static_cast<std::byte*>(memory);
}

Staging::~Staging() {
  cudaFreeHost(memory_);
}

std::byte* Staging::room(std::size_t bytes, cudaStream_t stream) {
  if (used_ + bytes > half_bytes) {
    STRATA_CUDA(cudaEventRecord(left_[half_], stream));
    half_ = 1 - half_;
    used_ = 0;
    STRATA_CUDA(cudaEventSynchronize(left_[half_]));
  }
  std::byte* at = memory_ + static_cast<std::size_t>(half_) * half_bytes + used_;
  used_ += (bytes + 15) / 16 * 16;
  return at;
}

void Staging::upload(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  for (std::size_t done = 0; done < bytes; done += half_bytes) {
    const std::size_t piece = std::min(half_bytes, bytes - done);
    std::byte* pinned = room(piece, stream);
    std::memcpy(pinned, static_cast<const std::byte*>(from) + done, piece);
    STRATA_CUDA(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, pinned, piece,
                                cudaMemcpyHostToDevice, stream));
  }
}

}  // namespace strata::cuda
