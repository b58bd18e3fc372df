// ZeRO-2's state through a checkpoint and back over real MPI: the run goes on bit for bit.

#include <gtest/gtest.h>

#include <bit>
#include <filesystem>

#include "../dist/job.hpp"
#include "core/log.hpp"
#include "dist/zero2.hpp"
#include "train/checkpoint.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

ParameterTable model() {
  ParameterTable table;
  table.add("a.weight", {70, 50});
  table.add("b.weight", {8, 4, 3, 3}, ParamLayout::conv_krsc);
  table.add("b.bias", {8});
  table.arrange(std::vector<ParamId>{2, 1, 0});
  return table;
}

struct Training {
  Training(Communicator& comm, const ParameterTable& table)
      : zero(exec, comm, table, {.compute = DType::bf16, .bucket_bytes = 1000, .ema = true}),
        rank(comm.rank()) {}
  void start() {
    const auto n = zero.weights().table().numel();
    Buffer flat(DType::f32, {n});
    for (std::int64_t i = 0; i < n; ++i) flat.as<float>()[i] = static_cast<float>(i % 97) / 97.0f;
    zero.set_parameters(flat);
  }
  void run(std::int64_t first, std::int64_t last) {
    const ParameterTable& table = zero.weights().table();
    for (std::int64_t step = first; step <= last; ++step) {
      zero.begin_step(1);
      for (const ParamId id : table.completion_order()) {
        const Tensor gradient = zero[id], parameter = zero.weights()[id];
        for (std::int64_t i = 0; i < gradient.numel(); ++i)
          gradient.as<float>()[i] +=
              to_float(parameter.as<bf16>()[i]) * static_cast<float>(rank + 1) -
              static_cast<float>((i + step) % 13) / 13.0f;
        const ParamId ids[] = {id};
        zero.ready(ids);
      }
      zero.end_microbatch();
      UpdateOptions update;
      update.adamw.lr = 0.01f;
      update.adamw.step = step;
      update.ema_decay = 0.9f;
      zero.update(update);
    }
  }
  CheckpointShard shard() {
    const ShardState s = zero.state();
    return {&zero.weights().table(),
            s.pieces,
            {{"master", s.master}, {"m", s.m}, {"v", s.v}, {"ema", s.ema}}};
  }
  std::vector<std::uint32_t> bits() {
    std::vector<std::uint32_t> all;
    for (const CheckpointState& state : shard().states)
      for (std::int64_t i = 0; i < state.shard.numel(); ++i)
        all.push_back(std::bit_cast<std::uint32_t>(state.shard.as<float>()[i]));
    const Tensor flat = zero.weights().flat();
    for (std::int64_t i = 0; i < flat.numel(); ++i) all.push_back(flat.as<bf16>()[i].bits);
    return all;
  }

  Exec exec{host_device, 1};
  Zero2 zero;
  int rank;
};

TEST(CheckpointOverMpi, ARestoredRunGoesOnBitForBit) {
  // Every rank must use the same folder: rank 0 makes it.
  std::string dir = (fs::temp_directory_path() / "strata-checkpoint-XXXXXX").string();
  if (world().rank() == 0) dir = mkdtemp(dir.data());
  dir = world().all_gather_strings(dir)[0];
  const std::string root = dir + "/checkpoints";

  const ParameterTable table = model();
  Training live(world(), table);
  live.start();
  live.run(1, 4);
  const CheckpointInfo saved =
      save_checkpoint(world(), root, 4, live.shard(), "config", R"({"step":4})");

  Training restored(world(), table);
  const auto loaded = load_latest_checkpoint(world(), root, restored.shard());
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->manifest_hash, saved.manifest_hash);
  EXPECT_EQ(loaded->world_size, world().size());
  restored.zero.restore_parameters();
  EXPECT_EQ(restored.bits(), live.bits());
  live.run(5, 8);
  restored.run(5, 8);
  EXPECT_EQ(restored.bits(), live.bits());

  // A rank that cannot read its part makes all ranks refuse the checkpoint.
  world().barrier();
  if (world().rank() == 0) fs::resize_file(root + "/step-00000004/MANIFEST.json", 50);
  world().barrier();
  log::set_quiet(true);
  try {
    load_latest_checkpoint(world(), root, restored.shard());
    ADD_FAILURE() << "a damaged manifest was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::no_checkpoint);
  }
  log::set_quiet(false);
  world().barrier();
  if (world().rank() == 0) fs::remove_all(dir);
}

}  // namespace
}  // namespace strata
