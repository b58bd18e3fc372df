#pragma once
// A communicator whose tensors lie on GPUs: NCCL for those, the communicator that it was made from
// for all that lies on the host.

#include "core/collectives.hpp"
#include "dist/communicator.hpp"

namespace strata {

class DeviceCommunicator : public Communicator {
 public:
  /// Collective over base's ranks, each with a device of its own. base outlives this.
  DeviceCommunicator(Communicator& base, Device device);

  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  int local_rank() const override { return base_.local_rank(); }
  int local_size() const override { return base_.local_size(); }
  bool concurrent() const override { return base_.concurrent(); }
  void barrier() override { base_.barrier(); }
  void broadcast(std::span<std::byte> bytes, int root) override { base_.broadcast(bytes, root); }
  void all_reduce_sum(std::span<double> values) override { base_.all_reduce_sum(values); }
  void all_reduce_max(std::span<std::int64_t> values) override { base_.all_reduce_max(values); }
  void all_reduce_tensor(Tensor values) override;
  Exec* order() override { return &order_; }
  void check() override { collectives_->check(); }
  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) override;
  void all_gather(Tensor full, std::int64_t part) override;
  std::vector<std::string> all_gather_strings(const std::string& mine) override {
    return base_.all_gather_strings(mine);
  }
  std::unique_ptr<Communicator> duplicate(ChannelOptions options) override;
  bool reports_failure() override { return base_.reports_failure(); }
  [[noreturn]] void abort(int code) override;

 private:
  DeviceCommunicator(std::unique_ptr<Communicator> base, Device device);

  std::unique_ptr<Communicator> owned_;  // of a duplicate
  Communicator& base_;
  Device device_;
  Exec order_;
  std::unique_ptr<DeviceCollectives> collectives_;
};

}  // namespace strata
