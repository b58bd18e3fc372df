// strata profile (MPI): where the time of a training step goes.

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "core/log.hpp"
#include "core/peaks.hpp"
#include "core/process.hpp"
#include "core/shared_layouts.hpp"
#include "evaluate/svg.hpp"
#include "train/random_work.hpp"
#include "train/setup.hpp"
#include "train/step.hpp"
#include "train/step_profile.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

constexpr int warm_up = 2;  // buffers grow, and shapes are seen for the first time

/// Steps of some training, and what holds its state.
struct Subject {
  Exec& exec;
  Zero2& zero;
  std::function<void()> step;
  std::string what;
  std::int64_t images;  // of a step, all ranks
};

double seconds_a_step(const Subject& subject, std::int64_t steps) {
  const auto begin = Clock::now();
  for (std::int64_t i = 0; i < steps; ++i) {
    const spans::Span span("step", "step");
    subject.step();
    subject.exec.synchronize();
  }
  return std::chrono::duration<double>(Clock::now() - begin).count() / static_cast<double>(steps);
}

std::vector<MemoryPart> memory_of(const Subject& subject) {
  const Zero2Memory zero = subject.zero.memory();
  std::vector<MemoryPart> parts{
      {"weights", static_cast<double>(zero.parameters)},
      {"gradients: this rank's part", static_cast<double>(zero.gradient_shard)},
      {"gradients in flight", static_cast<double>(zero.bucket_buffers)},
      {"optimizer", static_cast<double>(zero.optimizer_state)},
      {"moving average", static_cast<double>(zero.ema)},
      {"activations and workspace", static_cast<double>(subject.exec.arena.peak_bytes())}};
  if (!(subject.exec.device() == host_device)) return parts;
  parts.push_back(
      {"weights in the backend's layout", static_cast<double>(subject.exec.layout_bytes())});
  double rest = static_cast<double>(resident_bytes().own);
  for (const MemoryPart& part : parts) rest -= part.bytes;
  parts.push_back({"the rest: libraries, input", std::max(rest, 0.0)});
  parts.push_back({"such layouts of all the node's ranks",
                   static_cast<double>(shared_layout_bytes(subject.exec))});
  parts.push_back({"resident, building included", static_cast<double>(peak_resident_bytes())});
  return parts;
}

/// Collective; the result is on rank 0.
StepProfile measure(const Subject& subject, const TrainConfig& config, std::int64_t steps,
                    Communicator& world) {
  Exec& exec = subject.exec;
  world.barrier();
  const MachinePeaks peaks{compute_peak(exec, compute_dtype(config)), copy_peak(exec)};
  for (int i = 0; i < warm_up; ++i) subject.step();
  exec.synchronize();
  world.barrier();
  const double unwatched = seconds_a_step(subject, steps);
  world.barrier();
  spans::start();
  seconds_a_step(subject, steps);
  StepProfile mine = profile_of(spans::stop(), steps, peaks);
  mine.seconds_unwatched = unwatched;
  mine.what = subject.what;
  mine.ranks = world.size();
  mine.threads = exec.threads();
  mine.device = config.train.device;
  mine.dtype = config.train.precision;
  mine.images = subject.images;
  mine.memory = memory_of(subject);
  std::vector<StepProfile> all;
  for (const std::string& text : world.all_gather_strings(to_json(mine).dump()))
    all.push_back(profile_from_json(parse_json(text, "a rank's profile")));
  return mean_of(all);
}

StepProfile measure_random(const TrainConfig& config, const Options& options, Communicator& world) {
  UNetConfig described = configured_unet(config);
  const WorkShape shape{
      .samples = microbatch_of(config, world.size()),
      .side = options.has("side") ? options.get<std::int64_t>("side") : described.sample_height,
      .tokens = options.get<std::int64_t>("tokens"),
      .dtype = compute_dtype(config),
      .recompute = config.train.recompute};
  if (shape.side < 1 || shape.tokens < 1) fail(Exit::usage, "--side and --tokens must be positive");
  const UNet unet(std::move(described));
  Exec exec(device_of(config, world), static_cast<int>(config.train.threads));
  exec.measure_choices(config.train.plan_cache);
  const auto between = connect_devices(world, exec.device());
  RandomTraining training(exec, for_tensors(between, world), unet, random_weights(unet), shape,
                          zero2_options(config), false);
  return measure(
      {.exec = exec,
       .zero = training.zero(),
       .step = [&] { training.step(); },
       .what = fmt::format("random images of {}x{} with {} tokens, random weights, {} "
                           "parameters, one microbatch a step",
                           shape.side, shape.side, shape.tokens, unet.parameters().numel()),
       .images = shape.samples * world.size()},
      config, options.get<std::int64_t>("steps"), world);
}

StepProfile measure_training(const TrainConfig& config, std::int64_t steps, Communicator& world) {
  StepMode mode = step_mode(config);
  mode.replays = false;  // an op that is played from a recording has no time of its own
  Learner learner(config, world, mode);
  learner.initialize_weights();
  learner.continue_after(0, 0);
  return measure({.exec = learner.exec(),
                  .zero = learner.zero(),
                  .step = [&] { learner.step(false); },
                  .what = fmt::format("{} and {}, {} parameters", config.data.latents,
                                      config.data.text, learner.unet().parameters().numel()),
                  .images = config.train.batch},
                 config, steps, world);
}

std::string plot_of(const StepProfile& profile) {
  const auto bars = [&](const std::vector<ProfileRow>& rows) {
    std::vector<svg::Bar> out;
    for (const ProfileRow& row : rows) {
      const double ms = 1e3 * row.total();
      std::string note =
          fmt::format("{:.1f} ms, {:.1f} %", ms, 100 * row.total() / profile.seconds);
      if (row.flops + row.bytes > 0)
        note += fmt::format(", {:.0f} % of peak {}", 100 * row.share_of_peak(),
                            row.is_bound_by_memory() ? "memory" : "arithmetic");
      out.push_back({row.name, ms, 1e3 * row.least_seconds, std::move(note)});
    }
    return out;
  };
  return svg::bar_chart(
      fmt::format("A training step: {:.1f} ms, {:.1f} % of the peak", 1e3 * profile.seconds,
                  100 * profile.flops() / profile.seconds / profile.peaks.flops),
      {{"by kind", bars(profile.kinds)}, {"by block", bars(profile.blocks)}},
      "dark: what the machine would need at its peaks, op by op");
}

}  // namespace

int profile(const Arguments& arguments, Communicator& communicator) {
  Options options(
      "profile step --config FILE",
      "Takes some training steps and says where their time goes: by kind of op, by block of the "
      "network, with operations, bytes and the share of this machine's peaks, measured just "
      "before. "
      "Nothing is written but what is asked for. On a GPU every op is waited for and no graph is "
      "played, so a step takes longer than in training.",
      "strata profile step --config configs/recipe/sd2-256.toml --random --svg step.svg");
  options.add()("what", po::value<std::string>(), "step")("config", po::value<std::string>(),
                                                          "TOML file of a training run")(
      "set", po::value<std::vector<std::string>>()->composing(), "table.key=value, repeatable")(
      "steps", po::value<std::int64_t>()->default_value(3), "steps to look at, behind two others")(
      "random", toggle(),
      "random images and texts, one microbatch a step: the caches need not be there")(
      "side", po::value<std::int64_t>(), "with --random: of the latents (default: the U-Net's)")(
      "tokens", po::value<std::int64_t>()->default_value(77), "with --random: of each text")(
      "json", toggle(), "everything as JSON on standard output")("svg", po::value<std::string>(),
                                                                 "file for a plot");
  options.positional("what");
  if (!options.parse(arguments)) return 0;
  if (options.text("what") != "step")
    fail(Exit::usage, "profile {}: there is `profile step`", options.text("what"));
  const auto steps = options.get<std::int64_t>("steps");
  if (steps < 1 || steps > 1000) fail(Exit::usage, "--steps: between 1 and 1000");
  const TrainConfig config = load_train_config(
      options.text("config"), options.has("set") ? options.get<std::vector<std::string>>("set")
                                                 : std::vector<std::string>{});
  const StepProfile found = options.flag("random") ? measure_random(config, options, communicator)
                                                   : measure_training(config, steps, communicator);
  if (communicator.rank() != 0) return 0;
  if (options.has("svg")) write_file_atomically(options.text("svg"), plot_of(found));
  fmt::print("{}\n", options.flag("json") ? to_json(found).dump(1) : to_text(found));
  return 0;
}

}  // namespace strata::commands
