// Whole runs on a GPU: the host's run within rounding, and bitwise its own when it is continued.

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

#include "core/safetensors.hpp"
#include "tests/gpu.hpp"
#include "tiny_run.hpp"
#include "train/plan.hpp"
#include "train/step.hpp"
#include "train/trainer.hpp"

namespace strata {
namespace {

class TrainingOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = test::missing_gpu(); !why.empty()) GTEST_SKIP() << why;
    std::string pattern = testing::TempDir() + "training-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    write_tiny_inputs(dir_, 24);
  }
  void TearDown() override {
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }
  TrainConfig config(const std::string& run, std::vector<std::string> overrides) const {
    return tiny_config(dir_, run, std::move(overrides));
  }
  std::string dir_;
  std::unique_ptr<Communicator> alone_ = local_communicator();
};

TEST_F(TrainingOnGpu, TwentyStepsAreTheHosts) {
  const auto host = config("host", {"train.device=host"});
  const auto device = config("device", {"train.device=cuda"});
  TrainOptions options;
  options.dump_steps = 1;
  run_training(host, options, *alone_);
  run_training(device, options, *alone_);
  const SafetensorsFile here(RunFolder{host.output.dir}.dump(1, 0));
  const SafetensorsFile there(RunFolder{device.output.dir}.dump(1, 0));
  for (const char* tensor : {"sample", "noise", "timesteps", "dropped", "text"})
    EXPECT_EQ(here.raw(tensor), there.raw(tensor)) << tensor;
  auto a = metrics_of(host), b = metrics_of(device);
  ASSERT_EQ(b.size(), 20u);
  // As over rank counts: sums in another order, 1e-6 at the first step and 1e-5 over twenty.
  EXPECT_NEAR(a[1]["loss"].get<double>(), b[1]["loss"].get<double>(), 1e-6);
  for (std::int64_t step = 1; step <= 20; ++step)
    EXPECT_NEAR(a[step]["loss"].get<double>(), b[step]["loss"].get<double>(), 1e-5) << step;
}

TEST_F(TrainingOnGpu, AStopIsContinuedBitwise) {
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    const std::vector<std::string> set{
        "train.device=cuda", std::string("train.precision=") + precision, "train.ema_decay=0.9"};
    const auto whole = config(std::string("whole-") + precision, set);
    const auto halves = config(std::string("halves-") + precision, set);
    run_training(whole, {}, *alone_);
    TrainOptions options;
    options.make_preview = [] { return [](const PreviewRequest&) { raise(SIGUSR1); }; };
    auto stopping = halves;
    stopping.samples.every = 7;
    EXPECT_TRUE(run_training(stopping, options, *alone_).stopped);
    EXPECT_FALSE(run_training(halves, {}, *alone_).stopped);
    auto a = metrics_of(whole), b = metrics_of(halves);
    for (std::int64_t step = 1; step <= 20; ++step)
      for (const char* key : {"loss", "grad_norm", "lr", "samples", "epoch"})
        EXPECT_EQ(a[step][key], b[step][key]) << key << " of step " << step;
  }
}

TEST_F(TrainingOnGpu, GraphsDoWhatTheCallsDo) {
  for (const auto& set : {std::vector<std::string>{"train.precision=fp32"},
                          {"train.precision=bf16", "train.microbatch=8"},
                          {"train.precision=bf16", "data.pooled=true", "train.clip=0.5"}}) {
    SCOPED_TRACE(set.front() + " " + set.back());
    auto with = set, without = set;
    with.push_back("train.device=cuda");
    without.insert(without.end(), {"train.device=cuda", "train.graph=false"});
    const auto graphs = config("graphs" + set.back(), with);
    const auto calls = config("calls" + set.back(), without);
    run_training(graphs, {}, *alone_);
    run_training(calls, {}, *alone_);
    auto a = metrics_of(graphs), b = metrics_of(calls);
    for (std::int64_t step = 1; step <= 20; ++step)
      for (const char* key : {"loss", "grad_norm"})
        EXPECT_EQ(a[step][key], b[step][key]) << key << " of step " << step;
  }
}

TEST_F(TrainingOnGpu, AStepIsRecordedOnceABucketAndThenPlayed) {
  const auto device = config("run", {"train.device=cuda", "train.microbatch=8"});
  Learner learner(device, *alone_);
  learner.initialize_weights();
  learner.continue_after(0, 0);
  for (int step = 0; step < 20; ++step) learner.step(false);
  EXPECT_GE(learner.recordings(), 2u);  // one of passes, one of the update
  EXPECT_LE(learner.recordings(), 9u);
}

/// A weight that is not finite makes every gradient so: nothing may change, on the device either.
TEST_F(TrainingOnGpu, AGradientThatIsNotFiniteIsSkippedAndSaidAStepLater) {
  const auto device = config("run", {"train.device=cuda", "train.microbatch=8"});
  Learner learner(device, *alone_);
  learner.initialize_weights();
  learner.continue_after(0, 0);
  const ParameterTable& table = learner.unet().parameters();
  const Buffer poisoned = Buffer::zeros(DType::f32, {table.numel()});
  poisoned.as<float>()[0] = NAN;
  learner.zero().set_parameters(poisoned);
  std::vector<StepOutcome> outcomes;
  for (int step = 0; step < 5; ++step) {
    learner.start_step(false);
    for (const auto& outcome : learner.finished_steps(step == 4)) outcomes.push_back(outcome);
  }
  ASSERT_EQ(outcomes.size(), 5u);
  for (const auto& outcome : outcomes) EXPECT_FALSE(outcome.applied) << outcome.step;
  EXPECT_EQ(learner.updates(), 0);
}

/// What a dry run says is what is taken, but for what it names as not counted.
TEST_F(TrainingOnGpu, TheArenaIsAsLargeAsThePlanSays) {
  const auto device =
      config("run", {"train.device=cuda", "train.microbatch=8", "train.precision=bf16"});
  Learner learner(device, *alone_);
  learner.initialize_weights();
  learner.continue_after(0, 0);
  for (int step = 0; step < 4; ++step) learner.step(false);
  const RowBuckets buckets = step_buckets(learner.caches(), 8, 1, step_mode(device));
  const PassMemory plan = pass_memory(
      learner.unet(), microbatch_shape(learner.caches(), 8, false, DType::bf16, buckets),
      buckets.most_rows(), false);
  const auto taken = static_cast<double>(learner.exec().arena.held_bytes());
  // One chunk of 64 MiB either way: this network is far smaller than a chunk.
  EXPECT_NEAR(static_cast<double>(plan.arena), taken, 64.0 * 1024 * 1024);
}

}  // namespace
}  // namespace strata
