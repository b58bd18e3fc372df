// What a checkpoint costs the steps: the same training without checkpoints, with checkpoints
// written behind the steps, and with checkpoints that it waits for. A step's time is all of it,
// what saving adds included. The ways take turns, so that a machine whose speed drifts is the same
// for all. Prints one line a way; STEPS are of a turn.
//   mpirun -np 2 checkpoint_stall CONFIG.toml STEPS EVERY FOLDER [table.key=value ...]

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "core/log.hpp"
#include "train/checkpoint_saver.hpp"
#include "train/run_state.hpp"

namespace {

using namespace strata;
using Clock = std::chrono::steady_clock;

struct Way {
  const char* name;
  bool saves, in_background;
  std::vector<double> times{};  // of all turns, in seconds
  double delay = 0, commit = 0, beginning = 0;
  int saved = 0, missed = 0;
};

constexpr int turns = 6;

SaveOrder order_of(Learner& learner, const TrainConfig& config, Communicator& world,
                   const std::string& root) {
  SaveOrder order;
  order.root = root;
  order.step = learner.steps();
  order.shard = checkpoint_shard(learner);
  order.config_hash = config_hash(config);
  order.host_json =
      host_json({learner.steps(), learner.updates(), 0}, config, learner, world.size());
  if (world.rank() == 0) order.afterwards = [root] { prune_checkpoints(root, 2, 0); };
  return order;
}

void take_turn(Way& way, Learner& learner, const TrainConfig& config, Communicator& world,
               int steps, int every, const std::string& root) {
  CheckpointSaver saver(world, way.in_background);
  learner.before_change([&](IndexRange elements) { saver.before_change(elements); });
  const auto take = [&](const std::optional<SaveOutcome>& outcome) {
    if (!outcome) return;
    if (outcome->error) std::rethrow_exception(outcome->error);
    way.delay += outcome->delay_seconds;
    way.commit += outcome->seconds;
    ++way.saved;
  };
  for (int step = 1; step <= steps; ++step) {
    const auto start = Clock::now();
    learner.step(false);
    if (way.saves && step % every == 0) {
      std::int64_t busy[] = {saver.done() ? 0 : 1};
      world.all_reduce_max(busy);
      if (busy[0] == 0) {
        take(saver.collect());
        const auto begin = Clock::now();
        saver.begin(order_of(learner, config, world, root));
        way.beginning += std::chrono::duration<double>(Clock::now() - begin).count();
      } else {
        ++way.missed;
      }
    }
    way.times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  take(saver.collect());
  learner.before_change([](IndexRange) {});
}

void print(Way& way) {
  double sum = 0;
  for (const double t : way.times) sum += t;
  std::sort(way.times.begin(), way.times.end());
  const auto count = static_cast<double>(way.times.size());
  const auto at = [&](double q) {
    return 1e3 * way.times[static_cast<std::size_t>(q * (count - 1))];
  };
  const double saves = std::max(way.saved, 1) / 1e3;
  log::info(
      "{:<10} {} steps: mean {:.2f} ms, median {:.2f}, p90 {:.2f}, p99 {:.2f}, most {:.2f}; {} "
      "saved, {} missed; a save begins in {:.2f} ms, holds the optimizer {:.2f}, is published "
      "after {:.0f}",
      way.name, way.times.size(), 1e3 * sum / count, at(0.5), at(0.9), at(0.99), at(1), way.saved,
      way.missed, way.beginning / saves, way.delay / saves, way.commit / saves);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 64;
  Job job(argc, argv);
  const std::vector<std::string> overrides(argv + 5, argv + argc);
  const int steps = std::atoi(argv[2]), every = std::atoi(argv[3]);
  const std::string root = argv[4];
  const TrainConfig config = load_train_config(argv[1], overrides);
  Learner learner(config, job.world());
  learner.initialize_weights();
  learner.continue_after(0, 0);
  log::info("{} parameters, {} bytes of state a rank", learner.unet().parameters().numel(),
            learner.zero().memory().optimizer_state + learner.zero().memory().ema);
  for (int i = 0; i < 5; ++i) learner.step(false);
  Way ways[] = {{"none", false, false}, {"background", true, true}, {"waiting", true, false}};
  for (int turn = 0; turn < turns; ++turn)
    for (Way& way : ways) take_turn(way, learner, config, job.world(), steps, every, root);
  for (Way& way : ways) print(way);
  job.world().barrier();
  if (job.world().rank() == 0) std::filesystem::remove_all(root);
  return 0;
}
