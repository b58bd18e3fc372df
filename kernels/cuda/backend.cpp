#include "kernels/cuda/backend.hpp"

#include <utility>

#include "kernels/cuda/plan_cache.hpp"

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
  return session_ ? recorder_ : stream_;
}

void CudaBackend::synchronize() {
  STRATA_CUDA(cudaStreamSynchronize(stream()));
}

void CudaBackend::wait_for(Backend& other) {
  auto& before = static_cast<CudaBackend&>(other);  // Exec checked that the devices are the same
  if (before.session_ && !session_) join(*before.session_);
  if (session_ != before.session_) fail_outside_of_recording();
  STRATA_CUDA(cudaEventRecord(before.reached_, before.stream()));
  STRATA_CUDA(cudaStreamWaitEvent(stream(), before.reached_, 0));
}

std::unique_ptr<Moment> CudaBackend::make_moment() {
  use(device_);
  return std::make_unique<CudaMoment>(device_);
}

void CudaBackend::mark(Moment& moment) {
  auto& marked = static_cast<CudaMoment&>(moment);
  marked.is_in_recording = session_ != nullptr;
  STRATA_CUDA(cudaEventRecord(marked.event(), stream()));
}

void CudaBackend::wait_for(const Moment& moment) {
  const auto& marked = static_cast<const CudaMoment&>(moment);
  if (marked.is_in_recording != (session_ != nullptr)) fail_outside_of_recording();
  STRATA_CUDA(cudaStreamWaitEvent(stream(), marked.event(), 0));
}

void CudaBackend::copy(void* to, const void* from, std::size_t bytes) {
  STRATA_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream()));
}

void CudaBackend::measure_choices(const std::string& folder) {
  graphs_.measure_choices(folder.empty() ? default_plan_folder() : folder);
}

// --- recordings ---------------------------------------------------------------------------------

void CudaBackend::join(Session& session) {
  session_ = &session;
  session.members.push_back(this);
}

std::unique_ptr<Recording> CudaBackend::record(const std::function<void()>& body) {
  use(device_);
  auto kept = std::make_unique<KeptUploads>(device_);
  Session session{kept.get(), {}};
  join(session);
  const auto leave = [&] {
    for (CudaBackend* member : session.members) member->session_ = nullptr;
  };
  cudaGraph_t graph = nullptr;
  try {
    // Other threads go on as they like: readers allocate, NCCL's threads launch.
    STRATA_CUDA(cudaStreamBeginCapture(recorder_, cudaStreamCaptureModeThreadLocal));
    call_for_recording(body);
    STRATA_CUDA(cudaStreamEndCapture(recorder_, &graph));
  } catch (...) {
    cudaStreamEndCapture(recorder_, &graph);
    cudaGetLastError();  // of the capture that was given up
    if (graph) cudaGraphDestroy(graph);
    leave();
    throw;
  }
  leave();
  const std::unique_ptr<CUgraph_st, cudaError_t (*)(cudaGraph_t)> owned(graph, cudaGraphDestroy);
  return std::make_unique<CudaRecording>(device_, stream_, graph, std::move(kept));
}

Tensor CudaBackend::upload(Exec& exec, const Tensor& counts) {
  if (counts.device == device_) return counts;
  const Tensor there = exec.empty(counts.dtype, counts.shape);
  if (session_)
    copy(there.data, session_->kept->keep(counts.data, counts.bytes()), counts.bytes());
  else
    staging_.upload(there.data, counts.data, counts.bytes(), stream());
  return there;
}

}  // namespace strata::cuda
