// NCCL behind core/collectives.hpp, in the stream of the Exec that a call is given. A call that
// NCCL has not taken yet is waited for by asking, so that an error on another rank is seen.

#include "core/collectives.hpp"

#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/layout.hpp"

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
      : rank_(rank), size_(size), exceptions_(std::uncaught_exceptions()) {
    use(device);
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

  void reduce_scatter_sum(Exec& on, Tensor shard, Tensor full, std::int64_t part) override {
    const ArenaScope scope(on.arena);
    Tensor from = full, to = shard;
    if (full.numel() < part * size_) from = padded(on, full, part);  // NCCL wants equal parts
    if (shard.numel() < part || shard.dtype != full.dtype) to = on.empty(full.dtype, {part});
    check_nccl(ncclReduceScatter(from.data, to.data, static_cast<std::size_t>(part),
                                 type_of(full.dtype), ncclSum, comm_, stream_of(on)),
               "ncclReduceScatter", rank_);
    enqueued("ncclReduceScatter");
    if (to.data != shard.data) convert(stream_of(on), shard, to.rows(0, shard.numel()));
  }

  void all_gather(Exec& on, Tensor full, std::int64_t part) override {
    const ArenaScope scope(on.arena);
    const bool direct = full.numel() == part * size_;
    const Tensor all = direct ? full : padded(on, full, part);
    const std::size_t bytes = static_cast<std::size_t>(part) * size_of(full.dtype);
    check_nccl(
        ncclAllGather(all.data + static_cast<std::size_t>(rank_) * bytes, all.data,
                      static_cast<std::size_t>(part), type_of(full.dtype), comm_, stream_of(on)),
        "ncclAllGather", rank_);
    enqueued("ncclAllGather");
    if (!direct) on.copy(full.data, all.data, full.bytes());
  }

  void all_reduce_sum(Exec& on, Tensor values) override {
    check_nccl(ncclAllReduce(values.data, values.data, static_cast<std::size_t>(values.numel()),
                             type_of(values.dtype), ncclSum, comm_, stream_of(on)),
               "ncclAllReduce", rank_);
    enqueued("ncclAllReduce");
  }

  void check() override { state(); }

 private:
  static cudaStream_t stream_of(Exec& on) {
    return static_cast<CudaBackend&>(on.backend()).stream();
  }
  static ncclDataType_t type_of(DType dtype) {
    if (dtype == DType::f64) return ncclFloat64;
    STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16, "{}", name_of(dtype));
    return dtype == DType::bf16 ? ncclBfloat16 : ncclFloat32;
  }
  /// full in `size` parts of equal length, zeros behind its end.
  Tensor padded(Exec& on, const Tensor& full, std::int64_t part) {
    const Tensor all = on.empty(full.dtype, {part * size_});
    on.copy(all.data, full.data, full.bytes());
    STRATA_CUDA(
        cudaMemsetAsync(all.data + full.bytes(), 0, all.bytes() - full.bytes(), stream_of(on)));
    return all;
  }
  ncclResult_t state() {
    ncclResult_t status = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm_, &status), "ncclCommGetAsyncError", rank_);
    check_nccl(status, "NCCL", rank_);
    return status;
  }
  /// A call may return before its work is in the stream.
  void enqueued(const char* call) {
    const auto start = std::chrono::steady_clock::now();
    poll_until([&] {
      if (std::chrono::steady_clock::now() - start > patience)
        fail(Exit::hang, "{}: no progress for 10 minutes (rank {})", call, rank_);
      return state() != ncclInProgress;
    });
  }

  static constexpr std::chrono::minutes patience{10};

  int rank_, size_, exceptions_;
  ncclComm_t comm_ = nullptr;
};

/// One rank: its part is the whole.
class LocalCollectives : public DeviceCollectives {
 public:
  void reduce_scatter_sum(Exec& on, Tensor shard, Tensor full, std::int64_t) override {
    convert(static_cast<CudaBackend&>(on.backend()).stream(), shard, full);
  }
  void all_gather(Exec&, Tensor, std::int64_t) override {}
  void all_reduce_sum(Exec&, Tensor) override {}
  void check() override {}
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
  if (size == 1) return std::make_unique<cuda::LocalCollectives>();
  return std::make_unique<cuda::NcclCollectives>(device, id, rank, size);
}

}  // namespace strata
