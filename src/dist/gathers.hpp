#pragma once
// All-gathers of buckets of parameters, and who waits for them.

#include <memory>
#include <vector>

#include "dist/communicator.hpp"
#include "dist/sharding.hpp"
#include "dist/worker.hpp"
#include "model/parameters.hpp"

namespace strata {

class Gathers : public Arrivals {
 public:
  /// What it is given outlives it. channel: what the worker communicates over. overlap = false:
  /// whoever begins a gather waits for it.
  Gathers(Exec& exec, Communicator& channel, const Sharding& sharding, Worker& worker,
          bool overlap);

  /// Gathers bucket b of a flat buffer, of which ops called before fill this rank's part. To be
  /// waited for by whoever asked (Worker::drain, and on a device the order of collectives).
  void post(Tensor flat, int b);
  /// The same of the parameters; `needs` waits for it.
  void begin(Tensor parameters, int b);

  void needs(ParamId id) override { await_bucket(sharding_.bucket_of(id)); }
  void needs_all() override;
  /// needs_all, after which the host may wait for the device without asking how other ranks are.
  void await_all();
  /// Waits for what was posted and for every op so far, asking how the other ranks are.
  void finish_posted();

 private:
  void await_bucket(int b);
  void look_at_ranks();

  Exec& exec_;
  Communicator& channel_;
  const Sharding& sharding_;
  Worker& worker_;
  const bool overlap_;
  Exec* const order_;
  // By bucket:
  std::vector<char> is_away_;                      // as far as the caller knows
  std::vector<char> is_gathered_;                  // written by the worker, under its mutex
  std::vector<std::unique_ptr<Moment>> gathered_;  // in the order of collectives
};

}  // namespace strata
