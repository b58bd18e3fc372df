// Exec::for_each_task: every task once, each thread with an Exec of its own.

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "core/error.hpp"
#include "kernels/ops.hpp"

namespace strata {
namespace {

/// The Execs that were seen, and how often each task ran.
struct Seen {
  std::mutex lock;
  std::set<const Exec*> execs;
  std::vector<int> times;

  explicit Seen(std::int64_t tasks) : times(static_cast<std::size_t>(tasks)) {}
  void add(const Exec& exec, std::int64_t task) {
    const std::lock_guard guard(lock);
    execs.insert(&exec);
    ++times[static_cast<std::size_t>(task)];
  }
};

TEST(Team, EveryTaskRunsOnceOnAThreadOfItsOwn) {
  Exec exec(host_device, 3);
  Seen seen(40);
  exec.for_each_task(40, [&](Exec& one, std::int64_t task) {
    EXPECT_EQ(one.threads(), 1);
    seen.add(one, task);
  });
  EXPECT_EQ(seen.times, std::vector<int>(40, 1));
  EXPECT_LE(seen.execs.size(), 3);
  EXPECT_FALSE(seen.execs.contains(&exec));
}

TEST(Team, FewTasksHaveAllThreads) {
  Exec exec(host_device, 3);
  Seen seen(2);
  exec.for_each_task(2, [&](Exec& all, std::int64_t task) { seen.add(all, task); });
  EXPECT_EQ(seen.times, std::vector<int>(2, 1));
  EXPECT_EQ(seen.execs, std::set<const Exec*>{&exec});
}

TEST(Team, AnExceptionEndsAllAndIsThrownOn) {
  Exec exec(host_device, 2);
  Seen seen(1000);
  const auto body = [&](Exec& one, std::int64_t task) {
    seen.add(one, task);
    if (task == 3) fail(Exit::data, "task {}", task);
  };
  EXPECT_THROW(exec.for_each_task(1000, body), Error);
  exec.for_each_task(4, [](Exec&, std::int64_t) {});  // and the team is whole
}

/// What a thread of a team computes with shared packed weights is what all threads compute.
TEST(Team, PackedProductsAreTheSameBits) {
  constexpr std::int64_t rows = 4 * ops::packed_rows, n = 96, k = 72;
  Exec exec(host_device, 2);
  const auto values = [](Shape shape, int step) {
    Buffer buffer(DType::bf16, shape);
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      buffer.as<bf16>()[i] = to_bf16(static_cast<float>(i * step % 31) / 16 - 1);
    return buffer;
  };
  const Buffer w = values({n, k}, 7), x = values({rows, k}, 5);
  const ops::PackedWeight packed = ops::pack(exec, w);
  const Buffer whole(DType::bf16, {rows, n}), parts(DType::bf16, {rows, n});
  ops::linear(exec, whole, x, packed);
  exec.for_each_task(4, [&](Exec& one, std::int64_t task) {
    const std::int64_t begin = task * ops::packed_rows, end = begin + ops::packed_rows;
    ops::linear(one, parts.tensor().rows(begin, end), x.tensor().rows(begin, end), packed);
  });
  EXPECT_EQ(std::memcmp(whole.tensor().data, parts.tensor().data, whole.tensor().bytes()), 0);
}

}  // namespace
}  // namespace strata
