// ZeRO-2 against a plain dense AdamW in one process, and against itself on other rank counts.

#include "dist/zero2.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>

#include "core/replay.hpp"
#include "core/rng.hpp"
#include "device_world.hpp"
#include "dist/sum.hpp"
#include "job.hpp"
#include "thread_world.hpp"

namespace strata {
namespace {

using testing_world::DeviceWorld;
using testing_world::run_ranks;

constexpr int lanes = 24;  // of the global batch; rank r runs lanes r, r + R, ...

ParameterTable toy_table() {
  ParameterTable table;
  table.add("conv.weight", {5, 3, 3, 3}, ParamLayout::conv_krsc);
  table.add("conv.bias", {5});
  table.add("attention.weight", {40, 30});
  table.add("attention.bias", {1});
  table.add("norm.weight", {17});
  table.add("out.weight", {64, 33});
  const std::vector<ParamId> order{5, 4, 1, 0, 3, 2};
  table.arrange(order);
  return table;
}

float draw(std::uint32_t what, std::int64_t i, int step, int lane) {
  const auto bits = random_block(
      {99}, {static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(step), Purpose::noise},
      what * 1000 + static_cast<std::uint32_t>(lane));
  return uniform01(bits[0]) - 0.5f;
}

/// The gradient of one lane at a step: any function of (step, lane, element, parameter value).
float lane_gradient(int step, int lane, std::int64_t i, float parameter) {
  return draw(1, i, step, lane) + 0.01f * parameter;
}

Buffer initial(const ParameterTable& table) {
  Buffer flat(DType::f32, {table.numel()});
  for (std::int64_t i = 0; i < table.numel(); ++i) flat.as<float>()[i] = draw(0, i, 0, 0);
  return flat;
}

UpdateOptions update_of(int step) {
  UpdateOptions options;
  options.adamw.lr = 0.01f;
  options.adamw.step = step;
  options.adamw.grad_scale = 1.0f / lanes;
  options.ema_decay = 0.9f;
  return options;
}

/// One backward: writes the gradient of every parameter in completion order, a few at a time.
void backward(Zero2& zero, int step, int lane) {
  const ParameterTable& table = zero.arriving_weights().table();
  for (const ParamId id : table.completion_order()) {
    const Tensor gradient = zero[id];
    const Tensor parameter = zero.arriving_weights()[id];
    ASSERT_EQ(gradient.shape, table[id].memory_shape);
    for (std::int64_t i = 0; i < gradient.numel(); ++i) {
      const float value = parameter.dtype == DType::bf16 ? to_float(parameter.as<bf16>()[i])
                                                         : parameter.as<float>()[i];
      gradient.as<float>()[i] += lane_gradient(step, lane, table[id].offset + i, value);
    }
    const ParamId done[] = {id};
    zero.ready(done);
  }
}

enum class Gathers { with_update, with_passes };  // of what an update changed

StepStats run_step(Zero2& zero, Communicator& comm, int step, const UpdateOptions& update,
                   Gathers gathers = Gathers::with_update) {
  const int microbatches = lanes / comm.size();
  zero.begin_step(microbatches);
  for (int m = 0; m < microbatches; ++m) {
    if (m == 0 && gathers == Gathers::with_passes) zero.gather_updated();
    backward(zero, step, m * comm.size() + comm.rank());
    zero.end_microbatch();
  }
  if (gathers == Gathers::with_update) return zero.update(update);
  zero.plan_update({&update, 1});
  zero.update_shard();
  return zero.stats_of(ops::read_decision(zero.decision().data));
}

struct Outcome {
  std::vector<float> master, ema;
  std::vector<double> norms;
};

Outcome train(Communicator& comm, Zero2Options options, int steps,
              Gathers gathers = Gathers::with_update) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  options.ema = true;
  Zero2 zero(exec, comm, table, options);
  zero.set_parameters(initial(table));
  Outcome outcome;
  for (int step = 1; step <= steps; ++step) {
    const StepStats stats = run_step(zero, comm, step, update_of(step), gathers);
    EXPECT_TRUE(stats.applied);
    EXPECT_EQ(stats.non_finite, 0);
    outcome.norms.push_back(stats.grad_norm);
  }
  EXPECT_LE(zero.peak_buckets_in_flight(), 3);
  const Buffer master(DType::f32, {table.numel()}), ema(DType::f32, {table.numel()});
  zero.gather_master(master);
  zero.gather_ema(ema);
  outcome.master.assign(master.as<float>(), master.as<float>() + table.numel());
  outcome.ema.assign(ema.as<float>(), ema.as<float>() + table.numel());
  return outcome;
}

Outcome train_on_threads(int ranks, const Zero2Options& options, int steps) {
  Outcome outcome;
  run_ranks(ranks, [&](Communicator& comm) {
    Outcome mine = train(comm, options, steps);
    if (comm.rank() == 0) outcome = std::move(mine);
  });
  return outcome;
}

/// torch.optim.AdamW written out in double from the paper's algorithm 2, gradients summed exactly.
Outcome dense_reference(int steps) {
  const ParameterTable table = toy_table();
  const Buffer start = initial(table);
  const std::int64_t n = table.numel();
  std::vector<double> p(start.as<float>(), start.as<float>() + n), m(n, 0.0), v(n, 0.0), ema = p;
  Outcome outcome;
  for (int step = 1; step <= steps; ++step) {
    const UpdateOptions options = update_of(step);
    double squares = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double g = 0;
      for (int lane = 0; lane < lanes; ++lane)
        g += lane_gradient(step, lane, i, static_cast<float>(p[i]));
      g /= lanes;
      squares += g * g;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.999 * v[i] + 0.001 * g * g;
      const double m_hat = m[i] / (1 - std::pow(0.9, step));
      const double v_hat = v[i] / (1 - std::pow(0.999, step));
      p[i] -= options.adamw.lr * 0.01 * p[i];
      p[i] -= options.adamw.lr * m_hat / (std::sqrt(v_hat) + 1e-8);
      ema[i] = 0.9 * ema[i] + 0.1 * p[i];
    }
    outcome.norms.push_back(std::sqrt(squares));
  }
  outcome.master.assign(p.begin(), p.end());
  outcome.ema.assign(ema.begin(), ema.end());
  return outcome;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

constexpr std::int64_t small_bucket = 1024;  // bytes: five buckets, some parameters alone in theirs

TEST(Zero2, FollowsADenseAdamW) {
  const int steps = 10;
  const Outcome expected = dense_reference(steps);
  for (const Reduction reduction : {Reduction::ordered, Reduction::tree}) {
    const Outcome got =
        train(world(), {.bucket_bytes = small_bucket, .reduction = reduction}, steps);
    // f32 rounding of parameters of size 0.5 and of the ratio m/sqrt(v), times lr, a step.
    const double tolerance = steps * 4 * 6e-8;
    EXPECT_LE(largest_difference(got.master, expected.master), tolerance);
    EXPECT_LE(largest_difference(got.ema, expected.ema), tolerance);
    for (int i = 0; i < steps; ++i)
      EXPECT_NEAR(got.norms[i], expected.norms[i], 1e-6 * expected.norms[i]);
  }
}

TEST(Zero2, OverlapChangesNoBit) {
  for (const DType wire : {DType::f32, DType::bf16}) {
    Zero2Options options{.wire = wire, .bucket_bytes = small_bucket};
    const Outcome with = train(world(), options, 5);
    options.overlap = false;
    const Outcome without = train(world(), options, 5);
    EXPECT_EQ(with.master, without.master);
    EXPECT_EQ(with.ema, without.ema);
    EXPECT_EQ(with.norms, without.norms);
  }
}

TEST(Zero2, GatheringWithTheNextPassesChangesNoBit) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const Zero2Options options{.compute = compute, .bucket_bytes = small_bucket};
    const Outcome before = train(world(), options, 5);
    const Outcome after = train(world(), options, 5, Gathers::with_passes);
    EXPECT_EQ(after.master, before.master);
    EXPECT_EQ(after.ema, before.ema);
    EXPECT_EQ(after.norms, before.norms);
  }
}

TEST(Zero2, ALayerWaitsForItsOwnBucketOnly) {
  // All but the first all-gather behind the update stand still until each rank has read what the
  // first one brought.
  std::mutex mutex;
  std::condition_variable changed;
  int readers = 0;
  bool holds = false, gave_up = false;
  std::array<int, 2> gathers{};
  const auto before_gather = [&](int rank) {
    std::unique_lock lock(mutex);
    if (!holds || gathers[rank]++ == 0) return;
    gave_up |= !changed.wait_for(lock, std::chrono::seconds(10), [&] { return readers == 2; });
  };
  run_ranks(2, before_gather, [&](Communicator& comm) {
    Exec exec(host_device, 1);
    const ParameterTable table = toy_table();
    Zero2 zero(exec, comm, table, {.bucket_bytes = 1});  // each parameter is its own bucket
    zero.set_parameters(initial(table));
    comm.barrier();
    {
      const std::lock_guard lock(mutex);
      holds = true;
    }
    run_step(zero, comm, 1, update_of(1));
    const ParamId first = table.completion_order().back();
    const Tensor early = zero.arriving_weights()[first];
    const std::vector<float> seen(early.as<float>(), early.as<float>() + early.numel());
    {
      const std::lock_guard lock(mutex);
      ++readers;
    }
    changed.notify_all();
    const Buffer master(DType::f32, {table.numel()});
    const Tensor all = zero.weights().flat();
    const std::vector<float> gathered(all.as<float>(), all.as<float>() + all.numel());
    zero.gather_master(master);
    EXPECT_EQ(gathered, std::vector<float>(master.as<float>(), master.as<float>() + all.numel()));
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), gathered.begin() + table[first].offset));
  });
  EXPECT_FALSE(gave_up);
}

TEST(Zero2, TheEndWaitsForGathersOfOtherRanks) {
  // A rank that has nothing more to read must not leave the others alone in a collective.
  std::atomic<int> gathers{0};
  run_ranks(
      2, [&](int) { ++gathers; },
      [&](Communicator& comm) {
        Exec exec(host_device, 1);
        const ParameterTable table = toy_table();
        Zero2 zero(exec, comm, table, {.bucket_bytes = 1});
        zero.set_parameters(initial(table));
        run_step(zero, comm, 1, update_of(1));
        if (comm.rank() == 0) static_cast<void>(zero.weights());
      });
  EXPECT_EQ(gathers, 2 * toy_table().size());
}

TEST(Zero2, BucketSizeChangesNoBitButTheNormsOrder) {
  const Outcome small = train(world(), {.bucket_bytes = 1}, 5);
  const Outcome large = train(world(), {.bucket_bytes = 1 << 20}, 5);
  EXPECT_EQ(small.master, large.master);
  EXPECT_EQ(small.ema, large.ema);
}

TEST(Zero2, RankCountsAgreeWithinRounding) {
  const Zero2Options options{.bucket_bytes = small_bucket};
  const Outcome one = train_on_threads(1, options, 20);
  for (const int ranks : {2, 4, 8}) {
    const Outcome many = train_on_threads(ranks, options, 20);
    EXPECT_NEAR(many.norms[0], one.norms[0], 1e-6 * one.norms[0]);
    EXPECT_LE(largest_difference(many.master, one.master), 1e-5);
    EXPECT_NE(many.master, one.master);  // what the tree is for
  }
}

TEST(Zero2, TheTreeMakesRankCountsBitwiseEqual) {
  for (const DType wire : {DType::f32, DType::bf16}) {
    for (const DType compute : {DType::f32, DType::bf16}) {
      const Zero2Options options{.compute = compute,
                                 .wire = wire,
                                 .bucket_bytes = small_bucket,
                                 .reduction = Reduction::tree};
      const Outcome one = train_on_threads(1, options, 5);
      for (const int ranks : {2, 4, 8}) {
        const Outcome many = train_on_threads(ranks, options, 5);
        EXPECT_EQ(many.master, one.master) << ranks;
        EXPECT_EQ(many.ema, one.ema) << ranks;
        EXPECT_EQ(many.norms, one.norms) << ranks;
      }
    }
  }
}

TEST(Zero2, TheSameTreeOverMpi) {
  if ((world().size() & (world().size() - 1)) != 0) GTEST_SKIP() << "ranks are no power of two";
  const Zero2Options options{.bucket_bytes = small_bucket, .reduction = Reduction::tree};
  EXPECT_EQ(train(world(), options, 5).master, train_on_threads(1, options, 5).master);
}

TEST(Zero2, Bf16ParametersAreTheRoundedMasters) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  Zero2 zero(exec, world(), table, {.compute = DType::bf16, .bucket_bytes = small_bucket});
  zero.set_parameters(initial(table));
  for (int step = 1; step <= 3; ++step) run_step(zero, world(), step, update_of(step));
  const Buffer master(DType::f32, {table.numel()});
  zero.gather_master(master);
  for (std::int64_t i = 0; i < table.numel(); ++i)
    ASSERT_EQ(zero.weights().flat().as<bf16>()[i].bits, to_bf16(master.as<float>()[i]).bits) << i;
}

TEST(Zero2, TheBf16WireRoundsEachLaneOnce) {
  // Errors of one rounding (2^-9 of the lane's gradient) over the lanes, against the f32 wire.
  const Outcome exact = train_on_threads(2, {.bucket_bytes = small_bucket}, 1);
  const Outcome rounded =
      train_on_threads(2, {.wire = DType::bf16, .bucket_bytes = small_bucket}, 1);
  EXPECT_NE(exact.master, rounded.master);
  EXPECT_NEAR(rounded.norms[0], exact.norms[0], exact.norms[0] / 512);
}

TEST(Zero2, ANonFiniteGradientOnOneRankChangesNothingAnywhere) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  Zero2 zero(exec, world(), table, {.bucket_bytes = small_bucket, .ema = true});
  zero.set_parameters(initial(table));
  run_step(zero, world(), 1, update_of(1));
  const auto snapshot = [&] {
    const ShardState state = zero.state();
    std::vector<float> all;
    for (const Tensor& t : {state.master, state.m, state.v, state.ema})
      all.insert(all.end(), t.as<float>(), t.as<float>() + t.numel());
    const Tensor flat = zero.weights().flat();
    all.insert(all.end(), flat.as<float>(), flat.as<float>() + flat.numel());
    return all;
  };
  const auto before = snapshot();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const int microbatches = lanes / world().size();
    zero.begin_step(microbatches);
    for (int m = 0; m < microbatches; ++m) {
      if (m == 0 && world().rank() == world().size() - 1) zero[2].as<float>()[7] = bad;
      backward(zero, 2, m * world().size() + world().rank());
      zero.end_microbatch();
    }
    const StepStats stats = zero.update(update_of(2));
    EXPECT_FALSE(stats.applied);
    EXPECT_EQ(stats.non_finite, 1);
    EXPECT_EQ(snapshot(), before);
  }
  EXPECT_TRUE(run_step(zero, world(), 2, update_of(2)).applied);
}

TEST(Zero2, ClippingScalesTheWholeGradient) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  Zero2 zero(exec, world(), table, {.bucket_bytes = small_bucket});
  zero.set_parameters(initial(table));
  UpdateOptions options = update_of(1);
  options.clip_norm = 0.5f;
  const StepStats stats = run_step(zero, world(), 1, options);
  ASSERT_GT(stats.grad_norm, 0.5);
  // After the first step m = 0.1 g: its norm shows the gradient that was used.
  const ShardState state = zero.state();
  std::vector<double> squares{0.0};
  for (std::int64_t i = 0; i < state.m.numel(); ++i) {
    const double g = state.m.as<float>()[i] / 0.1;
    squares[0] += g * g;
  }
  world().all_reduce_sum(squares);
  EXPECT_NEAR(std::sqrt(squares[0]), 0.5, 1e-5);
}

TEST(Zero2, OneRankAddsInPlace) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  const auto alone = local_communicator();
  Zero2 zero(exec, *alone, table, {.bucket_bytes = 1});
  zero.set_parameters(initial(table));
  for (const int step : {1, 2}) run_step(zero, *alone, step, update_of(step));
  EXPECT_EQ(zero.peak_buckets_in_flight(), 0);
  EXPECT_EQ(zero.memory().bucket_buffers, 0);
  EXPECT_EQ(Zero2::plan(table, {.bucket_bytes = 1}, 0, 1, 2).bucket_buffers, 0);
  EXPECT_GT(Zero2::plan(table, {.bucket_bytes = 1}, 0, 2, 2).bucket_buffers, 0);
}

/// Steps of two microbatches, called, recorded and played, by CUDA's rules of who may wait for whom
/// (kernels/counted).
TEST(Zero2, RecordedStepsKeepTheRulesOfADevice) {
  const ParameterTable table = toy_table();
  for (const int ranks : {1, 2})
    for (const DType wire : {DType::f32, DType::bf16})
      for (const std::int64_t bucket_bytes : {std::int64_t{1}, std::int64_t{1} << 20}) {
        SCOPED_TRACE(
            fmt::format("{} ranks, {}, buckets of {}", ranks, name_of(wire), bucket_bytes));
        DeviceWorld comm(ranks);
        Exec exec(counted_device, 1);
        Zero2 zero(exec, comm, table, {.wire = wire, .bucket_bytes = bucket_bytes});
        zero.set_parameters(initial(table));
        Replays replays(exec);
        const auto passes = [&](bool first) {
          if (first) zero.gather_updated();
          for (const ParamId id : table.completion_order())
            static_cast<void>(zero.arriving_weights()[id]);
          for (const ParamId id : table.completion_order()) {
            ops::fill(exec, zero[id], 0.0f);
            zero.ready({&id, 1});
          }
          zero.end_microbatch();
        };
        std::vector<int> calls;
        for (int step = 1; step <= 4; ++step) {
          const int before = comm.calls();
          zero.begin_step(2);
          for (const bool first : {true, false})
            if (!replays.run(first, [&] { passes(first); })) zero.skip_microbatch();
          zero.plan_update(std::vector{update_of(step)});
          replays.run(2, [&] { zero.update_shard(); });
          calls.push_back(comm.calls() - before);
        }
        EXPECT_EQ(replays.recordings(), 3u);
        EXPECT_EQ(calls, (std::vector{calls[0], calls[0], 0, 0})) << "the rest is played";
        static_cast<void>(zero.weights());
        EXPECT_GT(comm.calls(), 2 * calls[0]) << "what the last update changed is not here yet";
        const int all = comm.calls();
        static_cast<void>(zero.weights());
        EXPECT_EQ(comm.calls(), all);
      }
}

TEST(Zero2, WrongUseIsNamed) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  const auto alone = local_communicator();
  const auto message_of = [&](auto&& use) {
    Zero2 zero(exec, *alone, table, {.bucket_bytes = 1, .reduction = Reduction::tree});
    zero.set_parameters(initial(table));
    zero.begin_step(1);
    try {
      use(zero);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::internal);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message_of([](Zero2& z) { z.end_microbatch(); }).find("conv.weight"),
            std::string::npos);
  EXPECT_NE(message_of([](Zero2& z) { z.update(update_of(1)); }).find("0 of 1"), std::string::npos);
  const auto twice = [](Zero2& z) {
    const ParamId ids[] = {4, 4};
    z.ready(ids);
  };
  EXPECT_NE(message_of(twice).find("norm.weight is ready twice"), std::string::npos);
  // Every parameter is its own bucket here: the fourth that is open at once is one too many.
  const auto four_open = [](Zero2& z) {
    for (const ParamId id : {5, 4, 1, 0}) z[id];
  };
  EXPECT_NE(message_of(four_open).find("conv.weight needs one more"), std::string::npos);
}

TEST(Zero2, MemoryFallsWithTheRanks) {
  ParameterTable table;
  std::vector<ParamId> order;
  for (int i = 0; i < 40; ++i) order.push_back(table.add(fmt::format("p{}", i), {100, 1000}));
  table.arrange(order);
  const Zero2Options options{.compute = DType::bf16, .bucket_bytes = 400'000, .ema = true};
  const Zero2Memory one = Zero2::plan(table, options, 0, 1, 4);
  EXPECT_EQ(one.parameters, 8'000'000);
  EXPECT_EQ(one.gradient_shard, 16'000'000);
  EXPECT_EQ(one.optimizer_state, 48'000'000);
  EXPECT_EQ(one.ema, 16'000'000);
  for (const int ranks : {2, 4, 8}) {
    const Zero2Memory many = Zero2::plan(table, options, 0, ranks, 4);
    EXPECT_EQ(many.parameters, one.parameters);
    EXPECT_NEAR(many.gradient_shard * ranks, one.gradient_shard, 0.01 * one.gradient_shard);
    EXPECT_NEAR(many.optimizer_state * ranks, one.optimizer_state, 0.01 * one.optimizer_state);
    EXPECT_LT(many.bucket_buffers, one.parameters);  // never a model-sized gradient
  }
}

TEST(Zero2, PlanIsWhatIsHeld) {
  Exec exec(host_device, 1);
  const ParameterTable table = toy_table();
  const Zero2Options options{
      .bucket_bytes = small_bucket, .reduction = Reduction::tree, .ema = true};
  Zero2 zero(exec, world(), table, options);
  zero.set_parameters(initial(table));
  run_step(zero, world(), 1, update_of(1));
  const Zero2Memory held = zero.memory();
  const Zero2Memory planned =
      Zero2::plan(table, options, world().rank(), world().size(), lanes / world().size());
  EXPECT_EQ(held.total(), planned.total());
  EXPECT_EQ(held.gradient_shard, planned.gradient_shard);
  EXPECT_EQ(held.optimizer_state, 3 * 4 * zero.sharding().local_numel());
}

}  // namespace
}  // namespace strata
