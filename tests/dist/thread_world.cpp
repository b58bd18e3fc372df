#include "thread_world.hpp"

#include <barrier>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "dist/sum.hpp"

namespace strata::testing_world {

namespace {

/// What the ranks of one channel share: every rank shows a pointer, all meet, all look, all meet.
struct Channel {
  Channel(int ranks, std::function<void(int)> hook)
      : meet(ranks), shown(ranks), before_gather(std::move(hook)) {}
  std::barrier<> meet;
  std::vector<const void*> shown;
  const std::function<void(int)> before_gather;
  std::mutex mutex;
  std::map<int, std::shared_ptr<Channel>> duplicates;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Channel> channel, int rank, int size)
      : channel_(std::move(channel)), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return rank_; }
  int local_size() const override { return size_; }
  bool concurrent() const override { return true; }
  void barrier() override { channel_->meet.arrive_and_wait(); }

  void broadcast(std::span<std::byte> bytes, int root) override {
    look(bytes.data(), [&] {
      if (rank_ != root && !bytes.empty())
        std::memcpy(bytes.data(), channel_->shown[root], bytes.size());
    });
  }
  void all_reduce_sum(std::span<double> values) override {
    const std::vector<double> mine(values.begin(), values.end());
    std::vector<double> column(size_);
    look(mine.data(), [&] {
      for (std::size_t i = 0; i < values.size(); ++i) {
        for (int r = 0; r < size_; ++r)
          column[r] = static_cast<const double*>(channel_->shown[r])[i];
        values[i] = sum_tree(std::span(column));
      }
    });
  }
  void all_reduce_max(std::span<std::int64_t> values) override {
    const std::vector<std::int64_t> mine(values.begin(), values.end());
    look(mine.data(), [&] {
      for (std::size_t i = 0; i < values.size(); ++i)
        for (int r = 0; r < size_; ++r)
          values[i] = std::max(values[i], static_cast<const std::int64_t*>(channel_->shown[r])[i]);
    });
  }
  void reduce_scatter_sum(Tensor shard, Tensor full, std::int64_t part) override {
    check_reduce_scatter(*this, shard, full, part);
    look(full.data, [&] {
      const std::int64_t begin = part_of(full.numel(), part, rank_).begin;
      std::vector<const std::byte*> parts(size_);
      for (int r = 0; r < size_; ++r)
        parts[r] = static_cast<const std::byte*>(channel_->shown[r]) + begin * size_of(full.dtype);
      sum_parts(shard, full.dtype, parts);
    });
  }
  void all_gather(Tensor full, std::int64_t part) override {
    channel_->before_gather(rank_);
    look(full.data, [&] {
      for (int r = 0; r < size_; ++r) {
        const IndexRange theirs = part_of(full.numel(), part, r);
        const std::size_t at = theirs.begin * size_of(full.dtype);
        if (r != rank_ && theirs.size() > 0)
          std::memcpy(full.data + at, static_cast<const std::byte*>(channel_->shown[r]) + at,
                      theirs.size() * size_of(full.dtype));
      }
    });
  }
  std::vector<std::string> all_gather_strings(const std::string& mine) override {
    std::vector<std::string> all;
    look(&mine, [&] {
      for (int r = 0; r < size_; ++r)
        all.push_back(*static_cast<const std::string*>(channel_->shown[r]));
    });
    return all;
  }
  std::unique_ptr<Communicator> duplicate(ChannelOptions) override {
    barrier();
    std::shared_ptr<Channel> copy;
    {
      const std::lock_guard lock(channel_->mutex);
      auto& entry = channel_->duplicates[duplicates_++];
      if (!entry) entry = std::make_shared<Channel>(size_, channel_->before_gather);
      copy = entry;
    }
    return std::make_unique<ThreadCommunicator>(copy, rank_, size_);
  }
  bool reports_failure() override { return rank_ == 0; }
  [[noreturn]] void abort(int) override { std::abort(); }

 private:
  template <class Body>
  void look(const void* mine, Body&& body) {
    channel_->shown[rank_] = mine;
    barrier();
    body();
    barrier();
  }

  std::shared_ptr<Channel> channel_;
  int rank_, size_, duplicates_ = 0;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  run_ranks(
      ranks, [](int) {}, body);
}

void run_ranks(int ranks, const std::function<void(int rank)>& before_gather,
               const std::function<void(Communicator&)>& body) {
  const auto channel = std::make_shared<Channel>(ranks, before_gather);
  std::vector<std::exception_ptr> errors(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      ThreadCommunicator comm(channel, r, ranks);
      try {
        body(comm);
      } catch (...) {
        errors[r] = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace strata::testing_world
