// Checkpoints on one, two, three and four ranks (threads of this process): what comes back, and
// what is refused.

#include "train/checkpoint.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/buffer.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/rng.hpp"
#include "thread_world.hpp"
#include "train/checkpoint_saver.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;
using testing_world::run_ranks;

const std::vector<std::string> kinds{"master", "m", "v", "ema"};

ParameterTable model(bool other_order = false) {
  ParameterTable table;
  table.add("down.conv.weight", {6, 5, 3, 3}, ParamLayout::conv_krsc);
  table.add("down.conv.bias", {6});
  table.add("attention.to_q.weight", {90, 41});
  table.add("attention.bias", {1});
  table.add("out.weight", {300, 1000});  // longer than one block of CRCs on every rank
  const std::vector<ParamId> order =
      other_order ? std::vector<ParamId>{0, 1, 2, 3, 4} : std::vector<ParamId>{4, 2, 3, 1, 0};
  table.arrange(order);
  return table;
}

/// Element i (memory layout) of a tensor in a state; the bits say which one it is.
float element(const std::string& name, std::size_t kind, std::int64_t i, int generation) {
  const auto word = random_block({xxh3(name)}, {static_cast<std::uint64_t>(i), 0, Purpose::noise},
                                 static_cast<std::uint32_t>(kind * 100 + generation))[0];
  return std::bit_cast<float>(word & 0xbfffffffu);  // any bits but infinities and NaN
}

/// One rank's shards of all states, as ZeRO-2 cuts them.
struct RankState {
  RankState(const ParameterTable& table_, Communicator& comm, std::int64_t bucket)
      : table(table_), pieces(Sharding(table_, bucket, comm.rank(), comm.size()).pieces()) {
    std::int64_t n = 0;
    for (const ShardPiece& piece : pieces) n += piece.flat.size();
    for (std::size_t k = 0; k < kinds.size(); ++k)
      buffers.push_back(Buffer::zeros(DType::f32, {n}));
  }
  CheckpointShard shard() {
    CheckpointShard shard{&table, pieces, {}};
    for (std::size_t k = 0; k < kinds.size(); ++k) shard.states.push_back({kinds[k], buffers[k]});
    return shard;
  }
  template <class Body>
  void each(Body&& body) {
    for (const ShardPiece& piece : pieces)
      for (std::int64_t i = 0; i < piece.flat.size(); ++i)
        for (int id = 0; id < table.size(); ++id) {
          const Parameter& p = table[id];
          const std::int64_t flat = piece.flat.begin + i;
          if (flat < p.offset || flat >= p.offset + p.numel()) continue;
          for (std::size_t k = 0; k < kinds.size(); ++k)
            body(p.name, k, flat - p.offset, buffers[k].as<float>()[piece.local + i]);
        }
  }
  void fill(int generation) {
    each([&](const std::string& name, std::size_t k, std::int64_t i, float& value) {
      value = element(name, k, i, generation);
    });
  }
  std::int64_t differences(int generation) {
    std::int64_t wrong = 0;
    each([&](const std::string& name, std::size_t k, std::int64_t i, float& value) {
      wrong += std::bit_cast<std::uint32_t>(value) !=
               std::bit_cast<std::uint32_t>(element(name, k, i, generation));
    });
    return wrong;
  }

  const ParameterTable& table;
  std::vector<ShardPiece> pieces;
  std::vector<Buffer> buffers;
};

class Checkpoint : public testing::Test {
 protected:
  Checkpoint() {
    std::string name = (fs::temp_directory_path() / "strata-checkpoint-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    dir_ = name;
    root_ = dir_ + "/checkpoints";
    log::set_quiet(true);
  }
  ~Checkpoint() override {
    log::set_quiet(false);
    fs::remove_all(dir_);
  }

  CheckpointInfo save(int ranks, std::int64_t step, int generation, std::int64_t bucket = 3000) {
    CheckpointInfo info;
    run_ranks(ranks, [&](Communicator& comm) {
      RankState state(table_, comm, bucket);
      state.fill(generation);
      const CheckpointInfo mine = save_checkpoint(comm, root_, step, state.shard(), "config-1",
                                                  R"({"samples":18446744073709551615,"lr":0.1})");
      if (comm.rank() == 0) info = mine;
    });
    return info;
  }
  /// What was loaded; the content is compared with `generation` on every rank.
  std::optional<CheckpointInfo> load(int ranks, int generation, const CheckpointCheck& check = {},
                                     std::int64_t bucket = 500) {
    std::optional<CheckpointInfo> info;
    run_ranks(ranks, [&](Communicator& comm) {
      RankState state(table_, comm, bucket);
      const auto mine = load_latest_checkpoint(comm, root_, state.shard(), check);
      if (mine) {
        EXPECT_EQ(state.differences(generation), 0);
      }
      if (comm.rank() == 0) info = mine;
    });
    return info;
  }
  Error load_error(int ranks) {
    try {
      load(ranks, 0);
    } catch (const Error& error) {
      return error;
    }
    return Error(Exit::ok, "");
  }
  std::string folder(std::int64_t step) const { return root_ + "/" + checkpoint_name(step); }

  static void flip(const std::string& path, std::uint64_t bit) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(bit / 8));
    char byte = 0;
    file.get(byte);
    byte = static_cast<char>(byte ^ (1 << (bit % 8)));
    file.seekp(static_cast<std::streamoff>(bit / 8));
    file.put(byte);
    ASSERT_TRUE(file.good());
  }

  std::string dir_, root_;
  ParameterTable table_ = model();
};

TEST_F(Checkpoint, RoundTripsThroughAnyRankCounts) {
  save(4, 10, 1);
  int generation = 1;
  for (const int ranks : {2, 1, 3, 4, 7}) {
    // What the ranks before saved is read back, and saved anew by these.
    const auto info = load(ranks, generation);
    ASSERT_TRUE(info);
    EXPECT_EQ(info->step, 9 + generation);
    ++generation;
    save(ranks, 9 + generation, generation, 100 * generation);
  }
  EXPECT_EQ(load(2, generation)->world_size, 7);
}

TEST_F(Checkpoint, ReshardingCopiesEveryByte) {
  save(4, 1, 5);
  std::string first;
  for (const int ranks : {2, 1, 3, 4}) {
    run_ranks(ranks, [&](Communicator& comm) {
      RankState state(table_, comm, 3000);
      load_latest_checkpoint(comm, root_, state.shard());
      save_checkpoint(comm, root_, 1, state.shard(), "config-1", "{}");
    });
  }
  // The same content on the same ranks is the same file.
  const std::string name = "/shard-00001-of-00004.bin";
  const std::string after = read_file(folder(1) + name);
  save(4, 2, 5);
  EXPECT_EQ(after, read_file(folder(2) + name));
}

TEST_F(Checkpoint, FindsTensorsByNameWhateverTheFlatOrder) {
  save(3, 10, 1);
  table_ = model(true);
  EXPECT_EQ(load(2, 1)->step, 10);
}

TEST_F(Checkpoint, KeepsItsInformation) {
  const CheckpointInfo saved = save(2, 77, 3);
  const auto loaded = load(3, 3);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->step, 77);
  EXPECT_EQ(loaded->world_size, 2);
  EXPECT_EQ(loaded->config_hash, "config-1");
  EXPECT_EQ(loaded->model_hash, model_hash(table_));
  EXPECT_EQ(loaded->host_json, R"({"lr":0.1,"samples":18446744073709551615})");
  EXPECT_EQ(loaded->kinds, kinds);
  EXPECT_EQ(loaded->manifest_hash, saved.manifest_hash);
  EXPECT_EQ(loaded->path, folder(77));
  EXPECT_EQ(saved.path, folder(77));
}

TEST_F(Checkpoint, NoneEverIsNotAnError) {
  EXPECT_FALSE(load(2, 0));
  fs::create_directories(root_ + "/.tmp-step-00000005");  // a save that never ended
  EXPECT_FALSE(load(2, 0));
}

TEST_F(Checkpoint, LeavesNoTemporaryFolder) {
  fs::create_directories(root_ + "/.tmp-step-00000003/deep");
  save(2, 10, 1);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(root_)) names.push_back(entry.path().filename());
  EXPECT_EQ(names, std::vector<std::string>{checkpoint_name(10)});
}

TEST_F(Checkpoint, FallsBackToTheNewestValidOne) {
  save(2, 10, 1);
  save(2, 20, 2);
  save(2, 30, 3);
  flip(folder(30) + "/shard-00001-of-00002.bin", 12345);
  EXPECT_EQ(load(4, 2)->step, 20);
  fs::remove(folder(20) + "/MANIFEST.json");
  EXPECT_EQ(load(1, 1)->step, 10);
}

TEST_F(Checkpoint, ADamagedOneIsReplacedWhenItsStepComesAgain) {
  save(2, 10, 1);
  save(2, 20, 2);
  flip(folder(20) + "/MANIFEST.json", 400);
  EXPECT_EQ(load(2, 1)->step, 10);
  save(3, 20, 4);
  EXPECT_EQ(load(2, 4)->step, 20);
  EXPECT_FALSE(fs::exists(folder(20) + "/shard-00001-of-00002.bin"));
}

TEST_F(Checkpoint, AllDamagedIs66AndNamesEach) {
  save(2, 10, 1);
  save(2, 20, 2);
  flip(folder(10) + "/shard-00000-of-00002.bin", 8);
  fs::resize_file(folder(20) + "/shard-00000-of-00002.bin", 100);
  for (const int ranks : {1, 2, 3}) {
    const Error error = load_error(ranks);
    EXPECT_EQ(error.code(), Exit::no_checkpoint);
    const std::string text = error.what();
    EXPECT_NE(text.find("step-00000010"), std::string::npos) << text;
    EXPECT_NE(text.find("CRC-32C"), std::string::npos) << text;
    EXPECT_NE(text.find("step-00000020"), std::string::npos) << text;
    EXPECT_NE(text.find("100 bytes"), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

TEST_F(Checkpoint, EveryDamageToFilesIsRefused) {
  save(2, 10, 1);
  const std::string shard = folder(10) + "/shard-00001-of-00002.bin";
  const std::string manifest = folder(10) + "/MANIFEST.json";
  const std::string copy = dir_ + "/copy";
  fs::copy(folder(10), copy);
  const auto refused = [&](const std::string& what) {
    EXPECT_EQ(load_error(2).code(), Exit::no_checkpoint) << what;
    fs::remove_all(folder(10));
    fs::copy(copy, folder(10));
  };
  for (const std::string& file : {shard, manifest}) {
    const auto bytes = fs::file_size(file);
    for (const std::uintmax_t length :
         {std::uintmax_t{0}, std::uintmax_t{1}, bytes / 2, bytes - 1, bytes + 1}) {
      fs::resize_file(file, length);
      refused(fmt::format("{} with {} bytes", file, length));
    }
    fs::remove(file);
    refused("missing " + file);
  }
  fs::rename(shard, dir_ + "/elsewhere");
  fs::create_symlink(dir_ + "/elsewhere", shard);
  refused("a link instead of a shard");
  fs::rename(shard, dir_ + "/swap");
  fs::rename(folder(10) + "/shard-00000-of-00002.bin", shard);
  fs::rename(dir_ + "/swap", folder(10) + "/shard-00000-of-00002.bin");
  refused("two shards changed places");
  EXPECT_EQ(load(2, 1)->step, 10);
}

TEST_F(Checkpoint, EveryFlippedBitIsRefused) {
  save(2, 10, 1);
  const std::vector<std::string> files{folder(10) + "/shard-00000-of-00002.bin",
                                       folder(10) + "/shard-00001-of-00002.bin",
                                       folder(10) + "/MANIFEST.json"};
  // One rank reads everything, so every flip is seen by it.
  const auto alone = local_communicator();
  RankState state(table_, *alone, 1000);
  constexpr int flips_a_file = 150;
  for (std::size_t f = 0; f < files.size(); ++f) {
    const std::uint64_t bits = fs::file_size(files[f]) * 8;
    for (int i = 0; i < flips_a_file; ++i) {
      const auto word = random_block({4}, {f, 0, Purpose::noise}, static_cast<std::uint32_t>(i));
      std::uint64_t bit = ((std::uint64_t{word[0]} << 32) | word[1]) % bits;
      if (i < 8)
        bit = static_cast<std::uint64_t>(i);  // the first byte
      else if (i < 16)
        bit = bits - 1 - static_cast<std::uint64_t>(i - 8);  // and the last
      flip(files[f], bit);
      try {
        load_checkpoint(*alone, folder(10), state.shard());
        ADD_FAILURE() << files[f] << ": flipped bit " << bit << " is accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Exit::no_checkpoint);
      }
      flip(files[f], bit);
    }
  }
  load_checkpoint(*alone, folder(10), state.shard());
  EXPECT_EQ(state.differences(1), 0);
}

TEST_F(Checkpoint, AnotherModelOrConfigIs78) {
  save(2, 10, 1);
  const auto code_with = [&](const ParameterTable& table) {
    Exit code = Exit::ok;
    try {
      run_ranks(2, [&](Communicator& comm) {
        RankState state(table, comm, 100);
        load_latest_checkpoint(comm, root_, state.shard());
      });
    } catch (const Error& error) {
      code = error.code();
    }
    return code;
  };
  ParameterTable more = model();
  more.add("class_embedding.weight", {3, 3});
  EXPECT_EQ(code_with(more), Exit::mismatch);
  ParameterTable fewer;
  fewer.add("down.conv.bias", {6});
  EXPECT_EQ(code_with(fewer), Exit::mismatch);
  ParameterTable reshaped;
  for (int id = 0; id < table_.size(); ++id)
    reshaped.add(table_[id].name, id == 2 ? Shape{41, 90} : table_[id].shape, table_[id].layout);
  EXPECT_EQ(code_with(reshaped), Exit::mismatch);

  const auto refuse = [](const CheckpointInfo& info) {
    if (info.config_hash != "config-2") fail(Exit::mismatch, "train.lr differs");
  };
  try {
    load(2, 1, refuse);
    ADD_FAILURE() << "a refused checkpoint was loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::mismatch);
    EXPECT_NE(std::string(error.what()).find("train.lr differs"), std::string::npos);
  }
}

TEST_F(Checkpoint, AMissingStateIs78) {
  run_ranks(2, [&](Communicator& comm) {
    RankState state(table_, comm, 100);
    CheckpointShard shard = state.shard();
    shard.states.pop_back();
    save_checkpoint(comm, root_, 1, shard, "", "{}");
  });
  EXPECT_EQ(load_error(2).code(), Exit::mismatch);
}

TEST_F(Checkpoint, AFailedSaveKeepsTheOldOneAndSaysSoEverywhere) {
  save(2, 10, 1);
  // Two ranks would write the same file: the second to open it fails.
  int failures = 0;
  std::mutex mutex;
  fs::permissions(root_, fs::perms::owner_read | fs::perms::owner_exec);
  const bool root_user = geteuid() == 0;
  if (root_user) {  // permissions do not bind root: a file stands where the folder should be
    fs::permissions(root_, fs::perms::owner_all);
    fs::rename(root_, root_ + "-aside");
    std::ofstream(root_) << "in the way";
  }
  run_ranks(2, [&](Communicator& comm) {
    RankState state(table_, comm, 100);
    try {
      save_checkpoint(comm, root_, 20, state.shard(), "", "{}");
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Exit::cannot_create || error.code() == Exit::permission);
      const std::lock_guard lock(mutex);
      ++failures;
    }
  });
  EXPECT_EQ(failures, 2);
  if (root_user) {
    fs::remove(root_);
    fs::rename(root_ + "-aside", root_);
  }
  fs::permissions(root_, fs::perms::owner_all);
  EXPECT_EQ(load(2, 1)->step, 10);
}

TEST_F(Checkpoint, WhatFollowsASaveOnOneRankFailsItOnNone) {
  run_ranks(2, [&](Communicator& comm) {
    RankState state(table_, comm, 100);
    CheckpointSaver saver(comm, false);
    SaveOrder order{root_, 10, state.shard(), "", "{}", {}};
    if (comm.rank() == 0)
      order.afterwards = [] { fail(Exit::io, "the old ones cannot be listed"); };
    saver.begin(std::move(order));
    const auto outcome = saver.collect();
    EXPECT_TRUE(outcome && !outcome->error && outcome->step == 10);
  });
  EXPECT_TRUE(fs::exists(folder(10)));
}

TEST_F(Checkpoint, AKillInTheMiddleOfASaveLeavesTheOldOne) {
  save(2, 10, 1);
  // A child saves step 20 again and again and is killed at some instant; step 20 is then either
  // absent or whole, and what it holds is one of the two generations.
  int present = 0;
  for (int trial = 0; trial < 12; ++trial) {
    fs::remove_all(folder(20));
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const auto alone = local_communicator();
      RankState state(table_, *alone, 3000);
      state.fill(2);
      for (;;) save_checkpoint(*alone, root_, 20, state.shard(), "config-1", "{}");
    }
    usleep(80'000 + 7'000 * trial);
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const bool has_new = fs::exists(folder(20));
    present += has_new;
    const auto loaded = load(2, has_new ? 2 : 1);
    ASSERT_TRUE(loaded);
    EXPECT_EQ(loaded->step, has_new ? 20 : 10);
  }
  RecordProperty("published", present);
  save(2, 30, 3);  // and saving goes on over the debris
  EXPECT_EQ(load(2, 3)->step, 30);
}

TEST_F(Checkpoint, TheReaderGivesTensorsByName) {
  save(3, 10, 1);
  save(3, 20, 2);
  const auto reader = CheckpointReader::open(dir_);  // a run folder
  EXPECT_EQ(reader.info().step, 20);
  ASSERT_EQ(reader.tensors().size(), 5u);
  EXPECT_EQ(reader.tensors()[0].name, "down.conv.weight");
  EXPECT_EQ(reader.tensors()[0].shape, (Shape{6, 5, 3, 3}));
  EXPECT_TRUE(reader.has("ema"));
  EXPECT_FALSE(reader.has("gradient"));
  reader.verify();

  const Buffer bias(DType::f32, {6});
  reader.read("down.conv.bias", "ema", bias);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(bias.as<float>()[i], element("down.conv.bias", 3, i, 2));
  const Buffer conv(DType::f32, {6, 5, 3, 3});
  reader.read("down.conv.weight", "master", conv);
  for (int n = 0; n < 6; ++n)
    for (int c = 0; c < 5; ++c)
      for (int rs = 0; rs < 9; ++rs)
        EXPECT_EQ(conv.as<float>()[(n * 5 + c) * 9 + rs],
                  element("down.conv.weight", 0, (n * 9 + rs) * 5 + c, 2));

  const Buffer flat(DType::f32, {table_.numel()}), rounded(DType::bf16, {table_.numel()});
  reader.read_flat(table_, "master", flat);
  reader.read_flat(table_, "master", rounded);
  for (int id = 0; id < table_.size(); ++id)
    for (std::int64_t i = 0; i < table_[id].numel(); ++i) {
      const float expected = element(table_[id].name, 0, i, 2);
      ASSERT_EQ(flat.as<float>()[table_[id].offset + i], expected);
      ASSERT_EQ(rounded.as<bf16>()[table_[id].offset + i].bits, to_bf16(expected).bits);
    }
}

TEST_F(Checkpoint, TheReaderRefusesWhatIsDamaged) {
  const auto code_of = [](auto&& use) {
    try {
      use();
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::ok;
  };
  EXPECT_EQ(code_of([&] { CheckpointReader::open(dir_); }), Exit::data);
  save(1, 10, 1);
  const auto reader = CheckpointReader::open(folder(10));
  flip(folder(10) + "/shard-00000-of-00001.bin", 1000);
  EXPECT_EQ(code_of([&] { reader.verify(); }), Exit::data);
  const Buffer flat(DType::f32, {table_.numel()});
  EXPECT_EQ(code_of([&] { reader.read_flat(table_, "master", flat); }), Exit::data);
  fs::remove(folder(10) + "/MANIFEST.json");
  EXPECT_EQ(code_of([&] { CheckpointReader::open(root_); }), Exit::no_checkpoint);
}

}  // namespace
}  // namespace strata
