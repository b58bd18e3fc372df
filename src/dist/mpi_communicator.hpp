#pragma once
// Private to src/dist/mpi*.cpp: the only files that see mpi.h.

#include <mpi.h>

#include "core/activity.hpp"
#include "dist/communicator.hpp"

namespace strata {

/// Throws Error(70) naming the call unless rc is MPI_SUCCESS.
void check_mpi(int rc, const char* call, Exit code = Exit::internal);

/// A private duplicate of an MPI communicator, freed on destruction unless an exception is passing
/// (freeing is collective, and the other ranks may be elsewhere).
class OwnedComm {
 public:
  explicit OwnedComm(MPI_Comm parent);
  ~OwnedComm();
  OwnedComm(const OwnedComm&) = delete;
  OwnedComm& operator=(const OwnedComm&) = delete;
  operator MPI_Comm() const { return comm_; }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int exceptions_;
};

/// How ranks that fail learn of each other; one a job.
class FailureChannel {
 public:
  explicit FailureChannel(MPI_Comm parent) : comm_(parent) {}
  /// See Communicator::reports_failure.
  bool reports();
  /// False only when a lower rank reports.
  bool may_abort_now() const { return answer_ != 0; }

 private:
  OwnedComm comm_;
  int answer_ = -1;
};

/// Every message says which call it belongs to: all collectives are made of point-to-point messages
/// whose tag holds the call's kind and number, and a receive takes whatever comes next from its
/// peer. So ranks that do not make the same calls in the same order, or a message that is lost, are
/// an OutOfStep that names both calls, never data in the wrong place. Costs no message.
class MpiCommunicator : public Communicator {
 public:
  /// Over a duplicate of `parent` (collective).
  MpiCommunicator(MPI_Comm parent, std::shared_ptr<FailureChannel> failures, bool concurrent,
                  ChannelOptions options);
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  bool concurrent() const override { return concurrent_; }
  void barrier() override;
  void broadcast(std::span<std::byte> bytes, int root) override;
  void all_reduce_sum(std::span<double> values) override;
  void all_reduce_max(std::span<std::int64_t> values) override;
  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) override;
  void all_gather(Tensor full, std::int64_t part) override;
  std::vector<std::string> all_gather_strings(const std::string& mine) override;
  std::unique_ptr<Communicator> duplicate(ChannelOptions options) override;
  bool reports_failure() override;
  [[noreturn]] void abort(int code) override;

 private:
  struct Message {
    std::byte* data;
    std::int64_t bytes;
    int peer;
  };
  /// What a receive was posted for.
  struct Expected {
    int peer, bytes;
  };
  /// The next collective call of this rank.
  void begin(activity::Collective kind);
  /// All messages at once, in pieces of at most max_message_bytes; returns when they are done.
  void exchange(std::span<const Message> receive, std::span<const Message> send);
  /// The first requests are receives.
  void wait(std::vector<MPI_Request>& requests, std::span<const Expected> receives) const;
  void check_arrival(const MPI_Status& status, const Expected& expected) const;
  void gather(Tensor full, std::int64_t part);
  template <class T>
  std::vector<T> gathered(std::span<const T> values);

  OwnedComm comm_;
  std::shared_ptr<FailureChannel> failures_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  bool concurrent_;
  ChannelOptions options_;
  activity::Collective kind_ = activity::Collective::none;  // of the call under way
  std::int64_t number_ = 0;                                 // how many were begun
  std::vector<std::byte> staging_;  // what other ranks send to be summed; at most 16 MiB
};

}  // namespace strata
