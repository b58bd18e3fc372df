#pragma once
// Collectives between the GPUs of several ranks. Implemented by kernels/cuda (NCCL); dist wraps
// them into a Communicator.

#include <memory>
#include <string>

#include "core/exec.hpp"

namespace strata {

/// Every call is collective and an op of `on`: it returns before it is done, and ops of `on` called
/// afterwards see its result.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  /// shard = the sum over the ranks of elements [rank part, rank part + shard.numel()) of full; see
  /// Communicator::reduce_scatter_sum. The order of a sum is NCCL's: the same in every run on the
  /// same machines, not over rank counts; a bf16 sum is rounded to bf16 at every hop.
  virtual void reduce_scatter_sum(Exec& on, Tensor shard, Tensor full, std::int64_t part) = 0;
  /// In place: every rank has filled its own part of full.
  virtual void all_gather(Exec& on, Tensor full, std::int64_t part) = 0;
  /// In place; values f64.
  virtual void all_reduce_sum(Exec& on, Tensor values) = 0;
  /// Error(70) for what went wrong on any rank. Whoever waits for a result asks meanwhile.
  virtual void check() = 0;
};

/// What all ranks of one group are given by the rank that calls this.
std::string collectives_id();
/// Collective over `size` ranks, each with a device of its own. One rank needs no id and no NCCL.
std::unique_ptr<DeviceCollectives> make_collectives(Device device, const std::string& id, int rank,
                                                    int size);

}  // namespace strata
