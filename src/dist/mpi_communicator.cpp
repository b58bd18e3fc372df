#include "dist/mpi_communicator.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "dist/out_of_step.hpp"
#include "dist/sum.hpp"

namespace strata {

namespace {

constexpr int failure_tag = 1;

using activity::Collective;

/// A message's tag: the kind of its collective call, and the call's number as far as the 15 bits go
/// that every MPI has.
constexpr int kind_bits = 3, number_bits = 12;
constexpr std::int64_t numbers = std::int64_t{1} << number_bits;
static_assert(static_cast<int>(Collective::thread) == 1 << kind_bits, "kinds of calls");

int tag_of(Collective kind, std::int64_t number) {
  return static_cast<int>(number % numbers) << kind_bits | static_cast<int>(kind);
}

/// "all_gather number 17", of a call that was made near number `near`.
std::string name_of_call(int tag, std::int64_t near) {
  const std::int64_t ahead = ((tag >> kind_bits) - near) & (numbers - 1);
  return fmt::format("{} number {}",
                     activity::name_of(static_cast<Collective>(tag & ((1 << kind_bits) - 1))),
                     near + (ahead < numbers / 2 ? ahead : ahead - numbers));
}

/// Between two looks at a request: a few yields, then naps that grow to 0.5 ms. Never spins: the
/// core belongs to whoever computes.
class Nap {
 public:
  void operator()() {
    if (++looks_ <= 16) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(length_));
    length_ = std::min(length_ * 2, 500);
  }

 private:
  int looks_ = 0, length_ = 20;
};

}  // namespace

void check_mpi(int rc, const char* call, Exit code) {
  if (rc == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(rc, text, &length);
  fail(code, "{}: {}", call, std::string(text, length));
}

OwnedComm::OwnedComm(MPI_Comm parent) : exceptions_(std::uncaught_exceptions()) {
  check_mpi(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

OwnedComm::~OwnedComm() {
  if (std::uncaught_exceptions() == exceptions_) MPI_Comm_free(&comm_);
}

bool FailureChannel::reports() {
  if (answer_ >= 0) return answer_ == 1;
  int rank = 0, size = 1;
  MPI_Comm_rank(comm_, &rank);
  MPI_Comm_size(comm_, &size);
  for (int higher = rank + 1; higher < size; ++higher) {
    MPI_Request request;  // the job ends before anybody could wait for it
    if (MPI_Isend(nullptr, 0, MPI_BYTE, higher, failure_tag, comm_, &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
  answer_ = 1;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(400);
  Nap nap;
  while (rank > 0 && answer_ == 1 && std::chrono::steady_clock::now() < until) {
    int seen = 0;
    if (MPI_Iprobe(MPI_ANY_SOURCE, failure_tag, comm_, &seen, MPI_STATUS_IGNORE) != MPI_SUCCESS)
      break;
    if (seen)
      answer_ = 0;
    else
      nap();
  }
  return answer_ == 1;
}

MpiCommunicator::MpiCommunicator(MPI_Comm parent, std::shared_ptr<FailureChannel> failures,
                                 bool concurrent, ChannelOptions options)
    : comm_(parent), failures_(std::move(failures)), concurrent_(concurrent), options_(options) {
  STRATA_CHECK(options_.max_message_bytes > 0 && options_.max_message_bytes <= INT_MAX);
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(node, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node, &local_size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_free(&node), "MPI_Comm_free");
}

void MpiCommunicator::begin(Collective kind) {
  kind_ = kind;
  ++number_;
}

void MpiCommunicator::check_arrival(const MPI_Status& status, const Expected& expected) const {
  int bytes = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
  const int tag = tag_of(kind_, number_);
  if (status.MPI_TAG == tag && bytes == expected.bytes) return;
  const auto here = fmt::format("{} (step {})", name_of_call(tag, number_),
                                activity::slot().step.load(std::memory_order_relaxed));
  if (status.MPI_TAG == tag)
    throw OutOfStep(fmt::format("{}: rank {} does not send the {} bytes that this rank expects",
                                here, expected.peer, expected.bytes));
  throw OutOfStep(fmt::format(
      "{}: rank {} is at {}: the ranks do not make the same calls in the same order, or a message "
      "was lost",
      here, expected.peer, name_of_call(status.MPI_TAG, number_)));
}

void MpiCommunicator::wait(std::vector<MPI_Request>& requests,
                           std::span<const Expected> receives) const {
  const int count = static_cast<int>(requests.size());
  std::vector<int> done(requests.size());
  std::vector<MPI_Status> statuses(requests.size());
  Nap nap;
  try {
    while (true) {
      int n = 0;
      const int rc = MPI_Testsome(count, requests.data(), &n, done.data(), statuses.data());
      if (rc != MPI_ERR_IN_STATUS) check_mpi(rc, "MPI_Testsome");
      if (n == MPI_UNDEFINED) return;  // nothing is left
      for (int i = 0; i < n; ++i) {
        // A message longer than expected is an error of MPI's, too: ours says whose.
        if (done[i] < std::ssize(receives)) check_arrival(statuses[i], receives[done[i]]);
        if (rc == MPI_ERR_IN_STATUS) check_mpi(statuses[i].MPI_ERROR, "MPI_Testsome");
      }
      if (n == 0) nap();
    }
  } catch (...) {
    for (std::size_t i = 0; i < receives.size(); ++i)  // whose memory is about to go
      if (requests[i] != MPI_REQUEST_NULL) MPI_Cancel(&requests[i]);
    throw;
  }
}

void MpiCommunicator::exchange(std::span<const Message> receive, std::span<const Message> send) {
  std::vector<MPI_Request> requests;
  std::vector<Expected> expected;
  const auto each_piece = [&](const Message& message, auto&& post) {
    for (std::int64_t at = 0; at < message.bytes; at += options_.max_message_bytes) {
      const auto bytes = static_cast<int>(std::min(options_.max_message_bytes, message.bytes - at));
      post(message.data + at, bytes, message.peer, &requests.emplace_back(MPI_REQUEST_NULL));
    }
  };
  for (const Message& m : receive)
    each_piece(m, [&](std::byte* data, int bytes, int peer, MPI_Request* request) {
      expected.push_back({peer, bytes});
      check_mpi(MPI_Irecv(data, bytes, MPI_BYTE, peer, MPI_ANY_TAG, comm_, request), "MPI_Irecv");
    });
  const int tag = tag_of(kind_, number_);
  for (const Message& m : send)
    each_piece(m, [&](std::byte* data, int bytes, int peer, MPI_Request* request) {
      check_mpi(MPI_Isend(data, bytes, MPI_BYTE, peer, tag, comm_, request), "MPI_Isend");
    });
  wait(requests, expected);
}

void MpiCommunicator::barrier() {
  const activity::Waits waits(Collective::barrier);
  begin(Collective::barrier);
  const char here = 0;
  gathered(std::span(&here, 1));
}

void MpiCommunicator::broadcast(std::span<std::byte> bytes, int root) {
  const activity::Waits waits(Collective::broadcast);
  begin(Collective::broadcast);
  const auto count = static_cast<std::int64_t>(bytes.size());
  std::vector<Message> messages;
  if (rank_ != root) {
    messages.push_back({bytes.data(), count, root});
    return exchange(messages, {});
  }
  for (int r = 0; r < size_; ++r)
    if (r != root) messages.push_back({bytes.data(), count, r});
  exchange({}, messages);
}

/// values of rank 0, of rank 1, ...
template <class T>
std::vector<T> MpiCommunicator::gathered(std::span<const T> values) {
  const auto n = static_cast<std::int64_t>(values.size_bytes());
  std::vector<T> all(values.size() * static_cast<std::size_t>(size_));
  std::copy(values.begin(), values.end(),
            all.begin() + static_cast<std::ptrdiff_t>(values.size()) * rank_);
  gather(Tensor{reinterpret_cast<std::byte*>(all.data()), DType::u8, host_device, {n * size_}}, n);
  return all;
}

void MpiCommunicator::all_reduce_sum(std::span<double> values) {
  const activity::Waits waits(Collective::sum);
  begin(Collective::sum);
  const auto all = gathered(std::span<const double>(values));
  std::vector<double> column(size_);
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (int r = 0; r < size_; ++r) column[r] = all[r * values.size() + i];
    values[i] = sum_tree(std::span(column));
  }
}

void MpiCommunicator::all_reduce_max(std::span<std::int64_t> values) {
  const activity::Waits waits(Collective::max);
  begin(Collective::max);
  const auto all = gathered(std::span<const std::int64_t>(values));
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::int64_t& most = values[i % values.size()];
    most = std::max(most, all[i]);
  }
}

void MpiCommunicator::reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) {
  const activity::Waits waits(Collective::reduce_scatter);
  begin(Collective::reduce_scatter);
  check_reduce_scatter(*this, shard, full, part);
  // In rounds over stretches of the parts, so that what is received stays small: every peer's
  // stretch of my part comes in, the same stretch of every peer's part goes out.
  constexpr std::int64_t staging_bytes = std::int64_t{16} << 20;
  const auto element = static_cast<std::int64_t>(size_of(full.dtype));
  const std::int64_t stretch = std::clamp<std::int64_t>(staging_bytes / (element * size_), 1,
                                                        std::max<std::int64_t>(part, 1));
  staging_.resize(std::max<std::size_t>(staging_.size(), stretch * element * size_));
  std::vector<const std::byte*> parts(size_);
  std::vector<Message> receive, send;
  for (std::int64_t at = 0; at < part; at += stretch) {
    const auto stretch_of = [&](int rank) {
      const IndexRange whole = part_of(full.numel(), part, rank);
      return IndexRange{std::min(whole.begin + at, whole.end),
                        std::min(whole.begin + at + stretch, whole.end)};
    };
    const IndexRange mine = stretch_of(rank_);
    receive.clear();
    send.clear();
    for (int r = 0; r < size_; ++r) {
      parts[r] = r == rank_ ? full.data + mine.begin * element : &staging_[r * stretch * element];
      if (r == rank_) continue;
      const IndexRange theirs = stretch_of(r);
      receive.push_back({&staging_[r * stretch * element], mine.size() * element, r});
      send.push_back({full.data + theirs.begin * element, theirs.size() * element, r});
    }
    exchange(receive, send);
    if (mine.size() == 0) continue;
    const std::int64_t to = mine.begin - part * rank_;
    sum_parts(shard.rows(to, to + mine.size()), full.dtype, parts);
  }
}

void MpiCommunicator::all_gather(Tensor full, std::int64_t part) {
  const activity::Waits waits(Collective::all_gather);
  begin(Collective::all_gather);
  STRATA_CHECK(full.shape.rank() == 1 && full.device == host_device);
  STRATA_CHECK(part * size_ >= full.numel(), "{} parts of {} for {} elements", size_, part,
               full.numel());
  gather(full, part);
}

void MpiCommunicator::gather(Tensor full, std::int64_t part) {
  const auto element = static_cast<std::int64_t>(size_of(full.dtype));
  const IndexRange mine = part_of(full.numel(), part, rank_);
  std::vector<Message> receive, send;
  for (int k = 1; k < size_; ++k) {  // each rank begins with its neighbour, so that none is crowded
    const int to = (rank_ + k) % size_, from = (rank_ + size_ - k) % size_;
    const IndexRange theirs = part_of(full.numel(), part, from);
    receive.push_back({full.data + theirs.begin * element, theirs.size() * element, from});
    send.push_back({full.data + mine.begin * element, mine.size() * element, to});
  }
  exchange(receive, send);
}

std::vector<std::string> MpiCommunicator::all_gather_strings(const std::string& mine) {
  const activity::Waits waits(Collective::gather_strings);
  begin(Collective::gather_strings);
  const auto length = static_cast<std::int64_t>(mine.size());
  const auto lengths = gathered(std::span(&length, 1));
  std::vector<std::string> all(size_);
  std::vector<Message> receive, send;
  for (int r = 0; r < size_; ++r) {
    all[r].resize(lengths[r]);
    if (r == rank_) continue;
    receive.push_back({reinterpret_cast<std::byte*>(all[r].data()), lengths[r], r});
    // MPI reads a send buffer only; it takes it as const void*.
    send.push_back(
        {reinterpret_cast<std::byte*>(const_cast<char*>(mine.data())), lengths[rank_], r});
  }
  all[rank_] = mine;
  exchange(receive, send);
  return all;
}

std::unique_ptr<Communicator> MpiCommunicator::duplicate(ChannelOptions options) {
  return std::make_unique<MpiCommunicator>(comm_, failures_, concurrent_, options);
}

bool MpiCommunicator::reports_failure() {
  return failures_->reports();
}

void MpiCommunicator::abort(int code) {
  std::fflush(nullptr);
  // The rank that reports ends the job; the others only if it does not.
  if (!failures_->may_abort_now()) std::this_thread::sleep_for(std::chrono::seconds(5));
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace strata
