#include "dist/device_communicator.hpp"

#include <exception>

#include "core/activity.hpp"

namespace strata {

namespace {

std::unique_ptr<DeviceCollectives> connect(Communicator& base, Device device) {
  if (base.size() == 1) return make_collectives(device, "", 0, 1);
  const auto ids = base.all_gather_strings(base.rank() == 0 ? collectives_id() : "");
  return make_collectives(device, ids.front(), base.rank(), base.size());
}

}  // namespace

DeviceCommunicator::DeviceCommunicator(Communicator& base, Device device)
    : base_(base), device_(device), order_(device, 1), collectives_(connect(base, device)) {}

DeviceCommunicator::DeviceCommunicator(std::unique_ptr<Communicator> base, Device device)
    : owned_(std::move(base)),
      base_(*owned_),
      device_(device),
      order_(device, 1),
      collectives_(connect(*owned_, device)) {}

std::unique_ptr<Communicator> DeviceCommunicator::duplicate(ChannelOptions options) {
  return std::unique_ptr<Communicator>(new DeviceCommunicator(base_.duplicate(options), device_));
}

void DeviceCommunicator::reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) {
  STRATA_CHECK(full.device == device_ && shard.device == device_, "a tensor on another device");
  const auto mine = part_of(full.numel(), part, rank());
  STRATA_CHECK(shard.numel() == mine.size(), "shard of {} for a part of {}", shard.numel(),
               mine.size());
  const activity::Waits waits(activity::Collective::reduce_scatter);
  collectives_->reduce_scatter_sum(order_, shard, full, part);
}

void DeviceCommunicator::abort(int code) {
  base_.abort(code);
  std::terminate();  // not reached; the compiler does not see it
}

void DeviceCommunicator::all_gather(Tensor full, std::int64_t part) {
  STRATA_CHECK(full.device == device_, "a tensor on another device");
  const activity::Waits waits(activity::Collective::all_gather);
  collectives_->all_gather(order_, full, part);
}

void DeviceCommunicator::all_reduce_tensor(Tensor values) {
  STRATA_CHECK(values.device == device_ && values.dtype == DType::f64, "values elsewhere");
  const activity::Waits waits(activity::Collective::sum);
  collectives_->all_reduce_sum(order_, values);
}

}  // namespace strata
