#pragma once
// Owners of CUDA's handles, and how small host tensors reach the device. Streams made here are
// blocking ones: they are ordered with the legacy default stream, in which memory is allocated,
// released and copied (memory.cpp), so a copy sees what ops before it wrote and ops after it see
// the copy.

#include <array>
#include <memory>
#include <vector>

#include "core/exec.hpp"
#include "core/feed.hpp"
#include "kernels/cuda/check.hpp"

namespace strata::cuda {

/// Makes the device current for the calling thread.
void use(Device device);

/// Of exec's arena, at a multiple of 256 bytes: what cuBLASLt asks of a workspace, and what kernels
/// of cuDNN's that load by blocks need at most.
std::byte* workspace(Exec& exec, std::int64_t bytes);

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamDefault);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaMoment final : public Moment {
 public:
  explicit CudaMoment(Device device) : device_(device) {}
  bool is_reached() const override;
  cudaEvent_t event() const { return event_; }
  bool is_in_recording = false;  // marked there, and nowhere else

 private:
  Device device_;
  Event event_;
};

/// Pinned memory that the copies of one recording read whenever it is played.
class KeptUploads {
 public:
  static constexpr std::size_t most_bytes = std::size_t{1} << 20;

  explicit KeptUploads(Device device) : memory_(device, most_bytes) {}
  const std::byte* keep(const void* from, std::size_t bytes);

 private:
  Pinned memory_;
  std::size_t used_ = 0;
};

/// A graph of CUDA's, played in one stream.
class CudaRecording final : public Recording {
 public:
  /// Takes the graph, which may go afterwards.
  CudaRecording(Device device, cudaStream_t stream, cudaGraph_t graph,
                std::unique_ptr<KeptUploads> kept);
  ~CudaRecording() override;
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;
  void play() override;

 private:
  Device device_;
  cudaStream_t stream_;
  std::unique_ptr<KeptUploads> kept_;
  cudaGraphExec_t executable_ = nullptr;
};

class MatmulHandle {
 public:
  MatmulHandle();
  ~MatmulHandle();
  MatmulHandle(const MatmulHandle&) = delete;
  MatmulHandle& operator=(const MatmulHandle&) = delete;
  operator cublasLtHandle_t() const { return handle_; }

 private:
  cublasLtHandle_t handle_ = nullptr;
};

/// Pinned host memory that is read by asynchronous copies: two halves, each used again only after
/// the copies out of it are done, so that an op returns without waiting for the device.
class Staging {
 public:
  static constexpr std::size_t half_bytes = std::size_t{1} << 20;

  Staging();
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  /// Copies `bytes` of host memory, which may go at once, to the device in stream order.
  void upload(void* to, const void* from, std::size_t bytes, cudaStream_t stream);

 private:
  std::byte* room(std::size_t bytes, cudaStream_t stream);

  std::byte* memory_ = nullptr;
  std::size_t used_ = 0;  // of the current half
  int half_ = 0;
  std::array<Event, 2> left_;  // recorded when a half was left
};

}  // namespace strata::cuda
