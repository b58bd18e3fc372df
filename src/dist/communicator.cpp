#include "dist/communicator.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/feed.hpp"
#include "dist/sum.hpp"

namespace strata {

namespace {

class LocalCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  bool concurrent() const override { return true; }
  void barrier() override {}
  void broadcast(std::span<std::byte>, int) override {}
  void all_reduce_sum(std::span<double>) override {}
  void all_reduce_max(std::span<std::int64_t>) override {}
  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) override {
    check_reduce_scatter(*this, shard, full, part);
    const std::byte* parts[] = {full.data};
    sum_parts(shard, full.dtype, parts);
  }
  void all_gather(Tensor full, std::int64_t part) override {
    STRATA_CHECK(full.numel() <= part, "{} elements in parts of {}", full.numel(), part);
  }
  std::vector<std::string> all_gather_strings(const std::string& mine) override { return {mine}; }
  std::unique_ptr<Communicator> duplicate(ChannelOptions) override {
    return std::make_unique<LocalCommunicator>();
  }
  bool reports_failure() override { return true; }
  [[noreturn]] void abort(int code) override {
    std::fflush(nullptr);
    std::_Exit(code);
  }
};

}  // namespace

void Communicator::all_reduce_tensor(Tensor values) {
  STRATA_CHECK(values.device == host_device, "values on a device");
  all_reduce_sum({values.as<double>(), static_cast<std::size_t>(values.numel())});
}

void Communicator::await(const Moment& moment) {
  constexpr auto patience = std::chrono::minutes(10);
  const auto start = std::chrono::steady_clock::now();
  poll_until([&] {
    if (moment.is_reached()) return true;
    check();
    if (std::chrono::steady_clock::now() - start > patience)
      fail(Exit::hang, "no progress on the device for 10 minutes (rank {})", rank());
    return false;
  });
}

IndexRange Communicator::part_of(std::int64_t m, std::int64_t part, int rank) {
  return {std::min(m, part * rank), std::min(m, part * (rank + 1))};
}

std::unique_ptr<Communicator> local_communicator() {
  return std::make_unique<LocalCommunicator>();
}

void agree(Communicator& comm, Exit code, const std::string& problem) {
  // Two digits of code, then the text: nothing at all from a rank that is well.
  const auto verdicts = comm.all_gather_strings(
      problem.empty() ? "" : fmt::format("{:02d}{}", static_cast<int>(code), problem));
  for (int r = 0; r < comm.size(); ++r) {
    const std::string& verdict = verdicts[r];
    if (verdict.empty()) continue;
    const auto their_code = static_cast<Exit>((verdict[0] - '0') * 10 + (verdict[1] - '0'));
    const std::string text = verdict.substr(2);
    if (comm.size() == 1) fail(their_code, "{}", text);
    fail(their_code, "rank {}: {}", r, text);
  }
}

void together(Communicator& comm, const std::function<void()>& work) {
  Exit code = Exit::internal;
  std::string problem;
  try {
    work();
  } catch (const Error& error) {
    code = error.code();
    problem = error.what();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  agree(comm, code, problem);
}

void together_until_stopped(Communicator& comm, const std::function<void()>& work) {
  std::string stopped;
  try {
    work();
  } catch (const Error& error) {
    if (error.code() != Exit::requeue) throw;
    stopped = error.what();
  }
  agree(comm, Exit::requeue, stopped);
}

}  // namespace strata
