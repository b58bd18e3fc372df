// NCCL behind core/collectives.hpp: one communicator, one stream of its own. Calls wait for the
// device by asking, so that an error on another rank is seen instead of a wait without end.

#include "core/collectives.hpp"

#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "core/arena.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/runtime.hpp"

namespace strata {

namespace cuda {

namespace {

void check_nccl(ncclResult_t status, const char* call, int rank) {
  if (status != ncclSuccess && status != ncclInProgress)
    fail(Exit::internal, "{}: {}: {} (rank {})", call, ncclGetErrorString(status),
         ncclGetLastError(nullptr), rank);
}

class NcclCollectives : public DeviceCollectives {
 public:
  NcclCollectives(Device device, const std::string& id, int rank, int size)
      : device_(device),
        rank_(rank),
        size_(size),
        exceptions_(std::uncaught_exceptions()),
        stream_(nonblocking(device)),
        arena_(device) {
    ncclUniqueId unique;
    STRATA_CHECK(id.size() == sizeof unique, "an id of {} bytes", id.size());
    std::memcpy(&unique, id.data(), sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check_nccl(ncclCommInitRankConfig(&comm_, size, unique, rank, &config),
               "ncclCommInitRankConfig", rank);
    enqueued("ncclCommInitRankConfig");
  }
  /// Leaving is a collective call of its own. While an exception passes, other ranks may never make
  /// it, and aborting may wait for them too: then the communicator is left to the process's end.
  ~NcclCollectives() override {
    if (std::uncaught_exceptions() > exceptions_) return;
    ncclResult_t left = ncclCommFinalize(comm_);
    for (int i = 0; i < 1000 && left == ncclInProgress; ++i) {
      if (ncclCommGetAsyncError(comm_, &left) != ncclSuccess) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (left == ncclSuccess) ncclCommDestroy(comm_);
  }
  NcclCollectives(const NcclCollectives&) = delete;
  NcclCollectives& operator=(const NcclCollectives&) = delete;

  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) override {
    const ArenaScope scope(arena_);
    begin(part, full.dtype);
    Tensor from = full, to = shard;
    if (full.numel() < part * size_) from = padded(full, part);  // NCCL wants equal parts
    if (shard.numel() < part || shard.dtype != full.dtype) to = arena_.empty(full.dtype, {part});
    check_nccl(ncclReduceScatter(from.data, to.data, static_cast<std::size_t>(part),
                                 type_of(full.dtype), ncclSum, comm_, stream_),
               "ncclReduceScatter", rank_);
    enqueued("ncclReduceScatter");
    if (to.data != shard.data) convert(stream_, shard, to.rows(0, shard.numel()));
    finish("ncclReduceScatter");
  }

  void all_gather(Tensor full, std::int64_t part) override {
    const ArenaScope scope(arena_);
    begin(part, full.dtype);
    const bool direct = full.numel() == part * size_;
    const Tensor all = direct ? full : padded(full, part);
    const std::size_t bytes = static_cast<std::size_t>(part) * size_of(full.dtype);
    check_nccl(ncclAllGather(all.data + static_cast<std::size_t>(rank_) * bytes, all.data,
                             static_cast<std::size_t>(part), type_of(full.dtype), comm_, stream_),
               "ncclAllGather", rank_);
    enqueued("ncclAllGather");
    if (!direct) copy(full.data, all.data, full.bytes());
    finish("ncclAllGather");
  }

 private:
  static unsigned nonblocking(Device device) {
    use(device);
    return cudaStreamNonBlocking;
  }
  static ncclDataType_t type_of(DType dtype) {
    STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "{}", name_of(dtype));
    return dtype == DType::bf16 ? ncclBfloat16 : ncclFloat32;
  }
  /// Memory that a call may need is there before it: new memory is ordered with the legacy default
  /// stream, which this one does not wait for.
  void begin(std::int64_t part, DType dtype) {
    use(device_);
    const std::size_t held = arena_.peak_bytes();
    {
      const ArenaScope scope(arena_);
      arena_.empty(dtype, {part * size_});
      arena_.empty(dtype, {part});
    }
    if (arena_.peak_bytes() > held) STRATA_CUDA(cudaStreamSynchronize(cudaStreamLegacy));
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    STRATA_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  /// full in `size` parts of equal length, zeros behind its end.
  Tensor padded(const Tensor& full, std::int64_t part) {
    const Tensor all = arena_.empty(full.dtype, {part * size_});
    copy(all.data, full.data, full.bytes());
    STRATA_CUDA(cudaMemsetAsync(all.data + full.bytes(), 0, all.bytes() - full.bytes(), stream_));
    return all;
  }
  ncclResult_t state() {
    ncclResult_t status = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm_, &status), "ncclCommGetAsyncError", rank_);
    check_nccl(status, "NCCL", rank_);
    return status;
  }
  template <class Condition>
  void wait_until(Condition done, const char* call) {
    using Clock = std::chrono::steady_clock;
    constexpr auto patience = std::chrono::minutes(10);
    const auto start = Clock::now();
    for (auto pause = std::chrono::microseconds(5); !done(); pause = std::min(2 * pause, longest)) {
      state();
      if (Clock::now() - start > patience)
        fail(Exit::hang, "{}: no progress for 10 minutes (rank {})", call, rank_);
      std::this_thread::sleep_for(pause);
    }
  }
  /// A call may return before its work is in the stream.
  void enqueued(const char* call) {
    wait_until([&] { return state() != ncclInProgress; }, call);
  }
  void finish(const char* call) {
    wait_until(
        [&] {
          const cudaError_t status = cudaStreamQuery(stream_);
          if (status == cudaErrorNotReady) return false;
          STRATA_CUDA(status);
          return true;
        },
        call);
  }

  static constexpr std::chrono::microseconds longest{200};

  Device device_;
  int rank_, size_, exceptions_;
  Stream stream_;
  Arena arena_;
  ncclComm_t comm_ = nullptr;
};

/// One rank: its part is the whole.
class LocalCollectives : public DeviceCollectives {
 public:
  explicit LocalCollectives(Device device) : device_(device) {}
  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t) override {
    use(device_);
    convert(cudaStreamLegacy, shard, full);
    STRATA_CUDA(cudaStreamSynchronize(cudaStreamLegacy));
  }
  void all_gather(Tensor, std::int64_t) override {}

 private:
  Device device_;
};

}  // namespace
}  // namespace cuda

std::string collectives_id() {
  ncclUniqueId id;
  cuda::check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId", 0);
  return {reinterpret_cast<const char*>(&id), sizeof id};
}

std::unique_ptr<DeviceCollectives> make_collectives(Device device, const std::string& id, int rank,
                                                    int size) {
  if (size == 1) return std::make_unique<cuda::LocalCollectives>(device);
  return std::make_unique<cuda::NcclCollectives>(device, id, rank, size);
}

}  // namespace strata
