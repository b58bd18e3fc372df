#pragma once
// The collectives that training needs, over host memory. One rank needs no MPI: `local_communicator`.
// NCCL's twin lives in kernels/cuda.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.hpp"

namespace strata {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks on this machine, and which of them this one is.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  virtual void barrier() = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Element-wise, in place, same result bits on every rank.
  virtual void all_reduce_sum(std::span<double> values) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  /// full (size * n) -> shard (n): the sum over ranks of this rank's part. f32 or bf16 (summed in f32).
  virtual void reduce_scatter_sum(Tensor shard, Tensor full) = 0;
  /// shard (n) -> full (size * n). Any dtype; shard may be this rank's part of full.
  virtual void all_gather(Tensor full, Tensor shard) = 0;
  /// Byte strings of all ranks, in rank order, on every rank.
  virtual std::vector<std::string> all_gather_strings(const std::string& mine) = 0;
  /// A separate channel over the same ranks (collective call), for use by another thread.
  virtual std::unique_ptr<Communicator> duplicate() = 0;
  /// Ends every rank of the job with this exit code; does not return.
  [[noreturn]] virtual void abort(int code) = 0;
};

std::unique_ptr<Communicator> local_communicator();

/// Initialises MPI on construction when this process was started by a launcher (mpirun, srun), or
/// alone as one rank; finalises on destruction. One per process, owned by main.
class Job {
 public:
  Job(int& argc, char**& argv);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  Communicator& world() { return *world_; }

 private:
  std::unique_ptr<Communicator> world_;
  bool finalize_ = false;
};

}  // namespace strata
