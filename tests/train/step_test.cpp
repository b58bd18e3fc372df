// Steps as a GPU is given them, done by the host: text padded to buckets, bodies that keep to the
// rules of recordings, a step under way while the next one starts.

#include "train/step.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "core/process.hpp"
#include "device_world.hpp"
#include "tiny_run.hpp"
#include "train/plan.hpp"
#include "train/random_work.hpp"
#include "train/trainer.hpp"

namespace strata {
namespace {

TEST(MicrobatchLayout, PartsDoNotOverlapAndAreAligned) {
  const MicrobatchShape shape{.samples = 3,
                              .latent = {4, 8, 8},
                              .text_dim = 5,
                              .pooled_dim = 7,
                              .longest = 11,
                              .most_rows = 40,
                              .dtype = DType::bf16};
  const MicrobatchLayout at(shape);
  const std::size_t in_order[] = {at.noise_at, at.posterior_at, at.offsets,       at.timesteps,
                                  at.signal,   at.noise,        at.target_signal, at.target_noise,
                                  at.weight,   at.pooled,       at.latents,       at.tokens,
                                  at.bytes};
  const std::size_t bytes[] = {48, 48, 32, 12, 12, 12, 12, 12, 12, 42, 3072, 400};
  for (std::size_t i = 0; i < std::size(bytes); ++i) {
    EXPECT_EQ(in_order[i] % 256, 0u) << i;
    EXPECT_GE(in_order[i + 1], in_order[i] + bytes[i]) << i;
  }
}

class Steps : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "steps-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    write_tiny_inputs(dir_, 24);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  struct Result {
    std::vector<double> losses, norms;
    std::vector<std::int64_t> steps;
    std::string weights;
  };
  Result run(StepMode mode, std::vector<std::string> overrides = {}) const {
    overrides.push_back("train.ema_decay=0.9");
    overrides.push_back("train.ema_warmup=true");
    const auto config = tiny_config(dir_, "run", std::move(overrides));
    const auto alone = local_communicator();
    Learner learner(config, *alone, mode);
    learner.initialize_weights();
    learner.continue_after(0, 0);
    Result result;
    for (std::int64_t step = 1; step <= 8; ++step) {
      learner.start_step(false);
      const bool all = step == 5 || step == 8;
      for (const StepOutcome& outcome : learner.finished_steps(all)) {
        result.losses.push_back(outcome.loss);
        result.norms.push_back(outcome.grad_norm);
        result.steps.push_back(outcome.step);
        EXPECT_TRUE(outcome.applied);
      }
      if (all) {
        EXPECT_EQ(learner.updates(), step);
      }
    }
    for (const Tensor part : {learner.zero().state().master, learner.zero().state().ema})
      result.weights.append(reinterpret_cast<const char*>(part.data), part.bytes());
    return result;
  }
  std::string dir_;
};

TEST_F(Steps, UnderWayAndByTheRulesOfRecordingsAreTheSameBits) {
  for (const auto& overrides : {std::vector<std::string>{},
                                {"train.precision=bf16"},
                                {"train.microbatch=8"},
                                {"data.latents=" + dir_ + "/moments", "data.pooled=true"},
                                {"train.caption_drop=1"}}) {
    SCOPED_TRACE(overrides.empty() ? "plain" : overrides.front());
    const Result plain = run({.text_buckets = 8}, overrides);
    const Result device = run({.replays = true, .text_buckets = 8, .behind = 1}, overrides);
    EXPECT_EQ(plain.steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
    EXPECT_EQ(device.steps, plain.steps);
    EXPECT_EQ(device.losses, plain.losses);
    EXPECT_EQ(device.norms, plain.norms);
    EXPECT_TRUE(device.weights == plain.weights);
  }
}

TEST_F(Steps, PaddedTextChangesNothingButTheOrderOfSums) {
  const Result exact = run({}), padded = run({.text_buckets = 4});
  // As over rank counts: sums in another order, 1e-6 at the first step and 1e-5 later.
  for (std::size_t i = 0; i < exact.losses.size(); ++i)
    EXPECT_NEAR(exact.losses[i], padded.losses[i], i == 0 ? 1e-6 : 1e-5) << i;
}

TEST_F(Steps, AStopEndsWhatIsUnderWay) {
  const auto config = tiny_config(dir_, "run");
  const auto alone = local_communicator();
  Learner learner(config, *alone, {.text_buckets = 8, .behind = 1});
  learner.initialize_weights();
  learner.continue_after(0, 0);
  learner.start_step(true);
  EXPECT_TRUE(learner.finished_steps(false).empty());
  learner.start_step(false);
  const auto outcomes = learner.finished_steps(false);
  ASSERT_EQ(outcomes.size(), 2u);
  EXPECT_TRUE(outcomes[0].stop);
  EXPECT_EQ(outcomes[1].step, 2);
}

/// What is called, recorded and played on a device, on one that is not there: memory that the host
/// cannot read, and CUDA's rules of recordings (kernels/counted).
TEST(WorkOfADevice, TrainingIsRecordedByItsRules) {
  const UNet unet(tiny_unet());
  const Buffer weights = random_weights(unet);
  for (const int ranks : {1, 2})
    for (const DType wire : {DType::f32, DType::bf16})
      for (const bool recompute : {false, true}) {
        SCOPED_TRACE(fmt::format("{} ranks, {}, recompute {}", ranks, name_of(wire), recompute));
        testing_world::DeviceWorld comm(ranks);
        Exec exec(counted_device, 1);
        RandomTraining training(exec, comm, unet, weights,
                                {.samples = 3, .side = 8, .tokens = 5, .recompute = recompute},
                                {.compute = DType::bf16, .wire = wire, .bucket_bytes = 1 << 12},
                                true);
        for (int step = 0; step < 4; ++step) training.step();
        const int a_step = comm.calls() / 2;  // called and recorded, then played
        for (int step = 0; step < 3; ++step) training.step();
        EXPECT_EQ(comm.calls(), 2 * a_step);
        EXPECT_GT(a_step, 2);
      }
}

TEST(WorkOfADevice, EvaluationsAreRecordedByItsRules) {
  const UNet unet(tiny_unet());
  const Buffer weights = random_weights(unet);
  Exec exec(counted_device, 1);
  RandomEvaluation evaluation(exec, unet, weights, {.samples = 4, .side = 8, .tokens = 5}, 2);
  for (int i = 0; i < 4; ++i) evaluation.evaluate();
}

/// SD2's real U-Net; shape of 32x32 latents with 77 tokens.
PassMemory sd2_passes(std::int64_t samples, DType dtype, bool recompute = false) {
  const UNet unet(
      UNetConfig::from_json_file(STRATA_SOURCE_DIR "/configs/models/sd2-unet/config.json"));
  MicrobatchShape shape{.samples = samples,
                        .latent = {4, 32, 32},
                        .text_dim = 1024,
                        .longest = 77,
                        .most_rows = 77 * samples,
                        .dtype = dtype};
  return pass_memory(unet, shape, shape.most_rows, recompute);
}

TEST(PassMemory, IsCountedWithoutBeingTaken) {
  const std::int64_t before = peak_resident_bytes();
  const PassMemory passes = sd2_passes(64, DType::bf16);
  EXPECT_LT(peak_resident_bytes() - before, std::int64_t{64} << 20);
  EXPECT_GE(passes.arena, passes.activations);
  // 195 MB an image are saved (references on this network); buffers of both passes come on top.
  EXPECT_GT(passes.activations, 64 * std::int64_t{190'000'000});
  EXPECT_LT(passes.activations, 64 * std::int64_t{300'000'000});
}

TEST(PassMemory, GrowsWithSamplesAndTypeAndShrinksByRecompute) {
  const auto bytes = [](std::int64_t samples, DType dtype, bool recompute = false) {
    return static_cast<double>(sd2_passes(samples, dtype, recompute).activations);
  };
  const double constant = 2 * bytes(8, DType::bf16) - bytes(16, DType::bf16);
  EXPECT_LT(std::abs(constant), 128e6) << "ends of chunks, which do not grow with samples";
  const double narrow = bytes(16, DType::bf16);
  EXPECT_GT(bytes(16, DType::f32), 1.7 * narrow);
  EXPECT_LT(bytes(16, DType::bf16, true), 0.7 * narrow);
}

/// The same code takes the same places in an arena whose ops are done; only ops' own temporaries
/// are not counted.
TEST_F(Steps, CountedMemoryIsWhatAStepTakesHere) {
  const UNet unet(tiny_unet());
  const MicrobatchShape shape{.samples = 4,
                              .latent = {4, tiny_size, tiny_size},
                              .text_dim = unet.config().text_dim(),
                              .longest = 5,
                              .most_rows = 20};
  Exec exec(host_device, 1);
  const Microbatch input(exec, shape);
  PassInput at = input.at(20);
  std::memset(at.noise.at.data, 0, MicrobatchLayout(shape).bytes);
  for (std::int64_t b = 0; b <= 4; ++b) at.text.offsets.as<std::int64_t>()[b] = 5 * b;
  const Buffer flat = Buffer::zeros(DType::f32, {unet.parameters().numel()});
  const Buffer losses = Buffer::zeros(DType::f32, {4});
  DenseGradients gradients(unet.parameters());
  {
    const ArenaScope scope(exec.arena);
    run_passes(exec, unet, Weights(unet.parameters(), flat), gradients, at, {}, losses);
  }
  const PassMemory counted = pass_memory(unet, shape, 20, false);
  const auto here = static_cast<double>(exec.arena.peak_bytes());
  EXPECT_NEAR(static_cast<double>(counted.activations), here, 0.02 * here);
}

TEST_F(Steps, ADryRunCountsAGpuThatIsNotHere) {
  const auto alone = local_communicator();
  const auto config = tiny_config(dir_, "run", {"train.device=cuda", "train.microbatch=8"});
  const std::string plan = plan_training(config, *alone);
  for (const char* line :
       {"\n  parameters ", "\n  gradient shard ", "\n  optimizer state ", "\n  activations ",
        "\n  workspace, estimated ", "\n  input, three times ", "\n  pinned, on the host ",
        "\n  total ", "\n  not counted "})
    EXPECT_NE(plan.find(line), std::string::npos) << line << "is not in\n" << plan;
}

}  // namespace
}  // namespace strata
