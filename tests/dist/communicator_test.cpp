// Collectives with inputs whose sums are exact, compared with ==, and the documented order of sums
// where they are not.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <thread>

#include "core/buffer.hpp"
#include "core/rng.hpp"
#include "dist/sum.hpp"
#include "job.hpp"

namespace strata {
namespace {

float small_integer(int rank, std::int64_t i) {
  return static_cast<float>((rank * 7 + i * 3) % 61 - 30);
}

/// A value that does not sum exactly.
float rough(int rank, std::int64_t i) {
  const auto bits = random_block({17}, {static_cast<std::uint64_t>(i), 0, Purpose::noise},
                                 static_cast<std::uint32_t>(rank));
  return std::ldexp(uniform01(bits[0]) - 0.5f, static_cast<int>(bits[1] % 12));
}

template <class T>
Buffer filled(std::int64_t m, float (*value)(int, std::int64_t), int rank) {
  Buffer buffer(dtype_of<T>, {m});
  for (std::int64_t i = 0; i < m; ++i) buffer.as<T>()[i] = from_float<T>(value(rank, i));
  return buffer;
}

IndexRange my_part(std::int64_t m, std::int64_t part) {
  return Communicator::part_of(m, part, world().rank());
}

std::int64_t fair_part(std::int64_t m) {
  return (m + world().size() - 1) / world().size();
}

TEST(Communicator, RanksAreNumbered) {
  EXPECT_GE(world().rank(), 0);
  EXPECT_LT(world().rank(), world().size());
  EXPECT_EQ(world().local_size(), world().size());
  EXPECT_EQ(world().local_rank(), world().rank());
}

TEST(Communicator, PartsTileTheBuffer) {
  for (const std::int64_t m : {0, 1, 5, 16, 17, 1000}) {
    for (const std::int64_t part : {fair_part(m), fair_part(m) + 3, m + 1}) {
      std::int64_t end = 0;
      for (int r = 0; r < world().size(); ++r) {
        const IndexRange range = Communicator::part_of(m, part, r);
        EXPECT_EQ(range.begin, end);
        end = range.end;
      }
      EXPECT_EQ(end, m);
    }
  }
}

TEST(Communicator, BroadcastFromEveryRoot) {
  for (int root = 0; root < world().size(); ++root) {
    std::vector<std::byte> bytes(1001);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(world().rank() == root ? i * 31 + root : 255);
    world().broadcast(bytes, root);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      ASSERT_EQ(bytes[i], static_cast<std::byte>(i * 31 + root)) << i;
  }
}

TEST(Communicator, AllReduceSumIsExactOnIntegersAndFixedOtherwise) {
  std::vector<double> exact(100), rough_values(100);
  for (int i = 0; i < 100; ++i) {
    exact[i] = small_integer(world().rank(), i);
    rough_values[i] = static_cast<double>(rough(world().rank(), i)) / 3.0;
  }
  world().all_reduce_sum(exact);
  world().all_reduce_sum(rough_values);
  std::vector<double> column(world().size());
  for (int i = 0; i < 100; ++i) {
    double sum = 0;
    for (int r = 0; r < world().size(); ++r) {
      sum += small_integer(r, i);
      column[r] = static_cast<double>(rough(r, i)) / 3.0;
    }
    EXPECT_EQ(exact[i], sum);
    EXPECT_EQ(rough_values[i], sum_tree(std::span(column)));
  }
}

TEST(Communicator, AllReduceMax) {
  std::vector<std::int64_t> values{world().rank(), -world().rank(), std::int64_t{1} << 40};
  world().all_reduce_max(values);
  EXPECT_EQ(values, (std::vector<std::int64_t>{world().size() - 1, 0, std::int64_t{1} << 40}));
}

TEST(Communicator, AllGatherStringsKeepsOrderAndEmptyOnes) {
  const auto text = [](int rank) {
    return rank % 3 == 1 ? "" : std::string(rank * 1000 + 1, 'a' + rank);
  };
  const auto all = world().all_gather_strings(text(world().rank()));
  ASSERT_EQ(static_cast<int>(all.size()), world().size());
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(all[r], text(r));
}

template <class T>
void check_reduce_scatter(Communicator& comm, std::int64_t m, std::int64_t part, DType to) {
  const Buffer full = filled<T>(m, rough, comm.rank());
  const IndexRange mine = Communicator::part_of(m, part, comm.rank());
  const Buffer shard(to, {mine.size()});
  comm.reduce_scatter_sum(shard, full, part);
  std::vector<float> column(comm.size());
  for (std::int64_t i = 0; i < mine.size(); ++i) {
    for (int r = 0; r < comm.size(); ++r)
      column[r] = to_float(from_float<T>(rough(r, mine.begin + i)));
    const float sum = sum_tree(std::span(column));
    if (to == DType::f32)
      ASSERT_EQ(shard.as<float>()[i], sum) << i;
    else
      ASSERT_EQ(shard.as<bf16>()[i].bits, to_bf16(sum).bits) << i;
  }
}

TEST(Communicator, ReduceScatterSumsInTheDocumentedOrder) {
  for (const std::int64_t m : {1, 3, 16, 100, 4097, 100'003}) {
    for (const std::int64_t part : {fair_part(m), fair_part(m) + 5, m}) {
      check_reduce_scatter<float>(world(), m, part, DType::f32);
      check_reduce_scatter<bf16>(world(), m, part, DType::f32);
      check_reduce_scatter<bf16>(world(), m, part, DType::bf16);
    }
  }
}

TEST(Communicator, Bf16IsSummedInF32) {
  // In bf16 256 + 1 is 256: only a sum in f32 sees the ones.
  const std::int64_t m = 64;
  Buffer full(DType::bf16, {m});
  for (std::int64_t i = 0; i < m; ++i)
    full.as<bf16>()[i] = to_bf16(world().rank() == 0 ? 256.0f : 1.0f);
  const IndexRange mine = my_part(m, fair_part(m));
  const Buffer shard(DType::f32, {mine.size()});
  world().reduce_scatter_sum(shard, full, fair_part(m));
  for (std::int64_t i = 0; i < mine.size(); ++i)
    EXPECT_EQ(shard.as<float>()[i], 255.0f + static_cast<float>(world().size()));
}

TEST(Communicator, AllGatherFillsEveryPart) {
  for (const std::int64_t m : {1, 5, 64, 10'001}) {
    for (const std::int64_t part : {fair_part(m), fair_part(m) + 2, m}) {
      Buffer full = Buffer::zeros(DType::f32, {m});
      const IndexRange mine = my_part(m, part);
      for (std::int64_t i = mine.begin; i < mine.end; ++i)
        full.as<float>()[i] = small_integer(3, i);
      world().all_gather(full, part);
      for (std::int64_t i = 0; i < m; ++i) ASSERT_EQ(full.as<float>()[i], small_integer(3, i)) << i;
    }
  }
}

TEST(Communicator, LongMessagesGoInPieces) {
  const auto channel = world().duplicate({.max_message_bytes = 37});  // never a whole element
  check_reduce_scatter<float>(*channel, 1003, fair_part(1003), DType::f32);
  check_reduce_scatter<bf16>(*channel, 501, fair_part(501), DType::f32);
  const std::int64_t m = 777;
  Buffer full = Buffer::zeros(DType::bf16, {m});
  const IndexRange mine = my_part(m, fair_part(m));
  for (std::int64_t i = mine.begin; i < mine.end; ++i)
    full.as<bf16>()[i].bits = static_cast<std::uint16_t>(i);
  channel->all_gather(full, fair_part(m));
  for (std::int64_t i = 0; i < m; ++i) ASSERT_EQ(full.as<bf16>()[i].bits, i);
  const auto all = channel->all_gather_strings(std::string(1000, 'a' + world().rank()));
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(all[r], std::string(1000, 'a' + r));
}

TEST(Communicator, ADuplicateServesAnotherThread) {
  if (!world().concurrent()) GTEST_SKIP() << "no MPI_THREAD_MULTIPLE";
  const auto channel = world().duplicate();
  std::thread other([&] {
    for (int i = 0; i < 20; ++i)
      check_reduce_scatter<float>(*channel, 5000, fair_part(5000), DType::f32);
  });
  for (int i = 0; i < 20; ++i)
    check_reduce_scatter<float>(world(), 3000, fair_part(3000), DType::f32);
  other.join();
}

TEST(Communicator, AgreeThrowsTheLowestRanksProblemEverywhere) {
  agree(world(), Exit::io, "");
  const int last = world().size() - 1;
  try {
    agree(world(), world().rank() == last ? Exit::data : Exit::io,
          world().rank() == last ? "shard 7 is damaged" : "");
    FAIL() << "no rank may go on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("shard 7 is damaged"), std::string::npos);
  }
}

TEST(Communicator, WrongShapesAreRefused) {
  Buffer full = Buffer::zeros(DType::f32, {100});
  const Buffer shard(DType::f32, {99 * world().size()});
  EXPECT_THROW(world().reduce_scatter_sum(shard, full, fair_part(100)), Error);
  EXPECT_THROW(world().all_gather(full, 100 / world().size() - 1), Error);
}

}  // namespace
}  // namespace strata
