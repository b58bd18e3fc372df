#pragma once

#include <cstdlib>

#include "dist/communicator.hpp"

namespace strata::testing_world {

/// Ranks between devices that are not there: collectives are ops of an order of their own.
class DeviceWorld : public Communicator {
 public:
  explicit DeviceWorld(int ranks) : ranks_(ranks) {}
  int rank() const override { return 0; }
  int size() const override { return ranks_; }
  int local_rank() const override { return 0; }
  int local_size() const override { return ranks_; }
  bool concurrent() const override { return false; }
  void barrier() override {}
  void broadcast(std::span<std::byte>, int) override {}
  void all_reduce_sum(std::span<double>) override {}
  void all_reduce_max(std::span<std::int64_t>) override {}
  void all_reduce_tensor(Tensor values) override { call(values); }
  void reduce_scatter_sum(Tensor, Tensor full, std::int64_t) override { call(full); }
  void all_gather(Tensor full, std::int64_t) override { call(full); }
  std::vector<std::string> all_gather_strings(const std::string& mine) override { return {mine}; }
  Exec* order() override { return &order_; }
  std::unique_ptr<Communicator> duplicate(ChannelOptions) override { return nullptr; }
  bool reports_failure() override { return true; }
  [[noreturn]] void abort(int) override { std::abort(); }
  int calls() const { return calls_; }

 private:
  void call(Tensor tensor) {
    ++calls_;
    order_.copy(tensor.data, tensor.data, tensor.bytes());
  }
  int ranks_, calls_ = 0;
  Exec order_{counted_device, 1};
};

}  // namespace strata::testing_world
