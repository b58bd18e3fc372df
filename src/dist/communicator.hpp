#pragma once
// The collectives that training needs, over host memory. One rank needs no MPI:
// `local_communicator`. NCCL's twin lives in kernels/cuda.
//
// Every call is collective: all ranks make the same calls in the same order on one communicator.
// Sums have one fixed order, a binary tree over the ranks ((0+1)+(2+3))+..., so that the bits are
// the same in every run and on every rank. MPI's own reductions promise neither, nor do they know
// bf16.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/exec.hpp"

namespace strata {

/// [begin, end), in elements.
struct IndexRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

struct ChannelOptions {
  /// No single message is longer (MPI counts are 32 bits); longer transfers go in pieces.
  std::int64_t max_message_bytes = std::int64_t{1} << 30;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks on this machine, and which of them this one is.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  /// Whether several threads may communicate at once, each on its own duplicate.
  virtual bool concurrent() const = 0;

  virtual void barrier() = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Element-wise, in place, same result bits on every rank. Where each element is non-zero on one
  /// rank only, the sum is exact and does not depend on the number of ranks.
  virtual void all_reduce_sum(std::span<double> values) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// The same of f64 values where tensors lie.
  virtual void all_reduce_tensor(Tensor values);
  /// full (m) is cut into parts of `part` elements; the last parts are shorter or empty
  /// (`part_of`). shard = the sum over ranks of this rank's part. full is f32 or bf16, the sum is
  /// done in f32, shard is f32 or full's dtype.
  virtual void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) = 0;
  /// In place: every rank has filled its own part of full (m); afterwards all parts are there.
  virtual void all_gather(Tensor full, std::int64_t part) = 0;
  /// Byte strings of all ranks, in rank order, on every rank.
  virtual std::vector<std::string> all_gather_strings(const std::string& mine) = 0;

  /// The Exec among whose ops calls with tensors count: they return before they are done. Null:
  /// they are done when they return.
  virtual Exec* order() { return nullptr; }
  /// Throws what went wrong with such calls on any rank.
  virtual void check() {}
  /// Returns when the moment is reached, calling check() meanwhile. Error(86) after ten minutes.
  void await(const Moment& moment);

  /// A separate channel over the same ranks (collective call), for use by another thread.
  virtual std::unique_ptr<Communicator> duplicate(ChannelOptions options = {}) = 0;

  /// For a rank about to end with an error, not collective: tells the other ranks and waits a
  /// moment for lower ranks that fail too. True on the rank that shall print the cause: the lowest
  /// one. The answer stays the same when asked again.
  virtual bool reports_failure() = 0;
  /// Ends every rank of the job with this exit code; does not return, runs no destructors.
  [[noreturn]] virtual void abort(int code) = 0;

  /// The elements of `part_of(rank)` in a buffer of m elements cut into parts of `part`.
  static IndexRange part_of(std::int64_t m, std::int64_t part, int rank);
};

/// One rank without MPI.
std::unique_ptr<Communicator> local_communicator();

/// Whether all ranks are well: `problem` is empty on those that are. Otherwise every rank throws
/// the Error of the lowest rank that is not ("rank R: ..." when there are several ranks).
/// Collective.
void agree(Communicator& comm, Exit code, const std::string& problem);
/// Runs `work` on this rank, then all ranks agree whether it worked everywhere. Collective.
void together(Communicator& comm, const std::function<void()>& work);
/// The same for long work: a stop on one rank (Error(75) of `check_stop`) becomes all ranks' stop
/// when each has ended its work; any other error is thrown at once, by this rank alone. Collective.
void together_until_stopped(Communicator& comm, const std::function<void()>& work);

/// Initialises MPI on construction when this process was started by a launcher (mpirun, or srun
/// with PMIx), or is alone as one rank without MPI; finalises on destruction. One per process,
/// owned by main. When it is destroyed by an exception it ends the other ranks too instead of
/// waiting for them.
class Job {
 public:
  Job(int& argc, char**& argv);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  Communicator& world() { return *world_; }

 private:
  std::unique_ptr<Communicator> world_;
  int exceptions_ = 0;
  bool finalize_ = false;
};

}  // namespace strata
