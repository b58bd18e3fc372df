// What a checkpoint costs the steps: the same training without checkpoints, with checkpoints
// written behind the steps, and with checkpoints that it waits for. A step's time is all of it,
// what saving adds included. Prints one line a way.
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
};

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

void measure(const Way& way, Learner& learner, const TrainConfig& config, Communicator& world,
             int steps, int every, const std::string& root) {
  CheckpointSaver saver(world, way.in_background);
  learner.before_change([&](IndexRange elements) { saver.before_change(elements); });
  std::vector<double> times;
  double delay = 0, commit = 0, beginning = 0;
  int saved = 0, missed = 0;
  const auto take = [&](const std::optional<SaveOutcome>& outcome) {
    if (!outcome) return;
    if (outcome->error) std::rethrow_exception(outcome->error);
    delay += outcome->delay_seconds;
    commit += outcome->seconds;
    ++saved;
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
        beginning += std::chrono::duration<double>(Clock::now() - begin).count();
      } else {
        ++missed;
      }
    }
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  take(saver.collect());
  learner.before_change([](IndexRange) {});
  double sum = 0;
  for (const double t : times) sum += t;
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) { return 1e3 * times[static_cast<std::size_t>(q * (steps - 1))]; };
  const double saves = std::max(saved, 1) / 1e3;
  log::info(
      "{:<10} {} steps: mean {:.2f} ms, median {:.2f}, p99 {:.2f}, most {:.2f}; {} saved, {} "
      "missed; a save begins in {:.2f} ms, holds the optimizer {:.2f}, is published after {:.0f}",
      way.name, steps, 1e3 * sum / steps, at(0.5), at(0.99), at(1), saved, missed,
      beginning / saves, delay / saves, commit / saves);
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
  for (const Way& way :
       {Way{"none", false, false}, Way{"background", true, true}, Way{"waiting", true, false},
        Way{"none", false, false}, Way{"background", true, true}})
    measure(way, learner, config, job.world(), steps, every, root);
  job.world().barrier();
  if (job.world().rank() == 0) std::filesystem::remove_all(root);
  return 0;
}
