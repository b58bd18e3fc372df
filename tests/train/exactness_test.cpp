// A process that was restored against one that went on, state by state; then both go on.

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "core/safetensors.hpp"
#include "thread_world.hpp"
#include "tiny_run.hpp"
#include "train/run_state.hpp"

namespace strata {
namespace {

using testing_world::run_ranks;

using Bytes = std::map<std::string, std::string>;  // by name

class Exactness : public testing::Test {
 protected:
  Exactness() {
    std::string pattern = testing::TempDir() + "exactness-XXXXXX";
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    dir_ = pattern;
    write_tiny_inputs(dir_, 40);
  }
  ~Exactness() override { std::filesystem::remove_all(dir_); }

  /// Everything that a step may depend on is switched on.
  TrainConfig config() const {
    return tiny_config(
        dir_, "run",
        {"data.latents=" + dir_ + "/moments", "data.pooled=true", "train.batch=12",
         "train.microbatch=1", "train.ema_decay=0.9", "train.ema_warmup=true", "train.clip=0.5",
         "train.schedule=cosine", "train.precision=bf16", "validation.fraction=0.2"});
  }
  std::string dir_;
};

/// Every kind of state whole, in the flat order, and the weights that are computed with; the same
/// on every rank.
Bytes state_of(Learner& learner, Communicator& comm) {
  Bytes state;
  const CheckpointShard shard = checkpoint_shard(learner);
  for (const CheckpointState& kind : shard.states) {
    std::string mine;
    for (const ShardPiece& piece : shard.pieces) {
      const Tensor part = kind.shard.rows(piece.local, piece.local + piece.flat.size());
      mine += fmt::format("{:012d}{:012d}", piece.flat.begin, part.bytes());
      mine.append(reinterpret_cast<const char*>(part.data), part.bytes());
    }
    std::string& whole = state[kind.kind];
    whole.resize(learner.unet().parameters().numel() * sizeof(float), '?');
    for (const std::string& theirs : comm.all_gather_strings(mine))
      for (std::size_t at = 0; at < theirs.size();) {
        const auto begin = std::stoull(theirs.substr(at, 12));
        const auto bytes = std::stoull(theirs.substr(at + 12, 12));
        std::memcpy(whole.data() + begin * sizeof(float), theirs.data() + at + 24, bytes);
        at += 24 + bytes;
      }
  }
  const Tensor weights = learner.zero().weights().flat();
  state["weights"].assign(reinterpret_cast<const char*>(weights.data), weights.bytes());
  state["steps"] = std::to_string(learner.steps());
  state["updates"] = std::to_string(learner.updates());
  return state;
}

void expect_equal(const Bytes& a, const Bytes& b, const std::string& when) {
  EXPECT_EQ(a.size(), b.size()) << when;
  for (const auto& [name, bytes] : a) EXPECT_TRUE(b.at(name) == bytes) << when << ": " << name;
}

/// One step. What went into it, by tensor and sample, and what came out; the same on every rank.
Bytes step_of(Learner& learner, Communicator& comm, const std::string& dir) {
  StepDump dump;
  const StepOutcome outcome = learner.step(false, &dump);
  const std::string path = fmt::format("{}/dump-{}.safetensors", dir, comm.rank());
  dump.write(path, {});
  const SafetensorsFile file(path);
  const Buffer samples = file.read_i64("sample");
  const std::int64_t n = samples.tensor().numel();
  std::string mine;
  for (const char* name :
       {"latents", "noise", "noisy", "timesteps", "dropped", "epoch", "pooled"}) {
    const auto bytes = file.raw(name);
    const std::size_t row = bytes.size() / n;
    for (std::int64_t i = 0; i < n; ++i)
      mine += fmt::format("{} {} {}\n", name, samples.as<std::int64_t>()[i],
                          sha256_hex(bytes.substr(i * row, row)));
  }
  Bytes all;
  for (const std::string& theirs : comm.all_gather_strings(mine)) {
    std::istringstream lines(theirs);
    for (std::string name, sample, hash; lines >> name >> sample >> hash;)
      all[name + " of sample " + sample] = hash;
  }
  EXPECT_EQ(all.size(), 7u * 12);
  all["loss"] = fmt::format("{:a}", outcome.loss);
  all["grad_norm"] = fmt::format("{:a}", outcome.grad_norm);
  return all;
}

void save(Learner& learner, Communicator& comm, const TrainConfig& config,
          const std::string& root) {
  const RunState state{learner.steps(), learner.updates(), 0};
  save_checkpoint(comm, root, learner.steps(), checkpoint_shard(learner), config_hash(config),
                  host_json(state, config, learner, comm.size()));
}

/// As the trainer resumes.
void restore(Learner& learner, Communicator& comm, const TrainConfig& config,
             const std::string& root) {
  const auto check = [&](const CheckpointInfo& info) { check_same_run(info, config, learner); };
  const auto info = load_latest_checkpoint(comm, root, checkpoint_shard(learner), check);
  ASSERT_TRUE(info);
  const RunState state = parse_run_state(*info);
  learner.zero().restore_parameters();
  learner.continue_after(state.step, state.updates);
}

TEST_F(Exactness, ARestoredProcessIsTheLiveOne) {
  for (const int ranks : {1, 2, 3, 4})
    run_ranks(ranks, [&](Communicator& comm) {
      const TrainConfig c = config();
      const std::string root = fmt::format("{}/checkpoints-{}", dir_, ranks);
      Learner live(c, comm);
      live.initialize_weights();
      live.continue_after(0, 0);
      for (int step = 0; step < 5; ++step) live.step(false);
      save(live, comm, c, root);
      Learner restored(c, comm);
      restore(restored, comm, c, root);
      const auto when = fmt::format("{} ranks, ", ranks);
      expect_equal(state_of(live, comm), state_of(restored, comm), when + "restored");
      for (int step = 0; step < 4; ++step) {
        const Bytes a = step_of(live, comm, dir_), b = step_of(restored, comm, dir_);
        expect_equal(a, b, fmt::format("{}step {}", when, live.steps()));
        expect_equal(state_of(live, comm), state_of(restored, comm),
                     fmt::format("{}after step {}", when, live.steps()));
      }
    });
}

TEST_F(Exactness, AnyRankCountHasTheSameStateAndSamples) {
  const TrainConfig c = config();
  Bytes state, step;
  run_ranks(4, [&](Communicator& comm) {
    Learner learner(c, comm);
    learner.initialize_weights();
    learner.continue_after(0, 0);
    for (int i = 0; i < 3; ++i) learner.step(false);
    save(learner, comm, c, dir_ + "/chain-0");
    const Bytes s = state_of(learner, comm), next = step_of(learner, comm, dir_);
    if (comm.rank() == 0) std::tie(state, step) = std::pair(s, next);
  });
  int link = 0;
  for (const int ranks : {2, 1, 3, 4}) {
    run_ranks(ranks, [&](Communicator& comm) {
      Learner learner(c, comm);
      restore(learner, comm, c, fmt::format("{}/chain-{}", dir_, link));
      const auto when = fmt::format("on {} ranks", ranks);
      expect_equal(state, state_of(learner, comm), when);
      save(learner, comm, c, fmt::format("{}/chain-{}", dir_, link + 1));
      Bytes next = step_of(learner, comm, dir_);
      for (const auto& [name, bytes] : step) {
        if (name.find(" of sample ") == std::string::npos) continue;  // sums round differently
        EXPECT_EQ(next[name], bytes) << when << ": " << name;
      }
      EXPECT_NEAR(std::strtod(next["loss"].c_str(), nullptr),
                  std::strtod(step["loss"].c_str(), nullptr), 1e-5);
    });
    ++link;
  }
}

}  // namespace
}  // namespace strata
