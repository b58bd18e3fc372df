// What a checkpoint costs the steps. Turns of STEPS steps without a save and with one that begins
// behind the first of them take turns, in one process, and each pair in the other order than the
// pair before: a machine whose speed drifts is the same for both. A step's time is all of it, what
// saving adds included. Printed: quantiles of both, their ratios with 90 % of what drawing the
// pairs anew gives (bootstrap), and how much longer than the median the first steps of a save are.
//   mpirun -np 2 checkpoint_stall CONFIG.toml PAIRS STEPS FOLDER [table.key=value ...]

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "core/log.hpp"
#include "core/process.hpp"
#include "train/checkpoint_saver.hpp"
#include "train/run_state.hpp"

namespace {

using namespace strata;
using Clock = std::chrono::steady_clock;
using Times = std::vector<double>;  // of steps, in seconds

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double quantile(Times times, double q) {
  const auto at = times.begin() + std::llround(q * static_cast<double>(times.size() - 1));
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

struct Turn {
  Times times;
  double delay = 0, commit = 0;  // of its save: the optimizer was held up, until it had its name
  int steps_under_way = 0;       // that ended before the save did
};

class Stall {
 public:
  Stall(Learner& learner, const TrainConfig& config, Communicator& world, std::string root)
      : learner_(learner), config_(config), world_(world), root_(std::move(root)) {}

  Turn take_turn(int steps, bool saves) {
    learner_.before_change([&](IndexRange elements) { saver_.before_change(elements); });
    Turn turn;
    for (int step = 0; step < steps; ++step) {
      const auto start = Clock::now();
      learner_.step(false);
      if (saves && step == 0) saver_.begin(order());
      turn.times.push_back(seconds_since(start));
      if (saves && !saver_.done()) ++turn.steps_under_way;
      if (turn.times.back() > 1)  // of a large model: as they come
        log::info("step {}{}: {:.2f} s", step, saver_.done() ? "" : " with a save under way",
                  turn.times.back());
    }
    if (const auto outcome = saver_.collect()) {
      if (outcome->error) std::rethrow_exception(outcome->error);
      turn.delay = outcome->delay_seconds;
      turn.commit = outcome->seconds;
    }
    learner_.before_change([](IndexRange) {});
    return turn;
  }

 private:
  SaveOrder order() const {
    SaveOrder order;
    order.root = root_;
    order.step = learner_.steps();
    order.shard = checkpoint_shard(learner_);
    order.config_hash = config_hash(config_);
    order.host_json =
        host_json({learner_.steps(), learner_.updates(), 0}, config_, learner_, world_.size());
    if (world_.rank() == 0) order.afterwards = [root = root_] { prune_checkpoints(root, 1, 0); };
    return order;
  }

  Learner& learner_;
  const TrainConfig& config_;
  Communicator& world_;
  const std::string root_;
  CheckpointSaver saver_{world_, true};
};

/// One turn of each kind.
struct Pair {
  Turn without, with;
};

double ratio(const std::vector<Pair>& pairs, const std::vector<std::size_t>& chosen, double q) {
  Times without, with;
  for (const std::size_t i : chosen) {
    without.insert(without.end(), pairs[i].without.times.begin(), pairs[i].without.times.end());
    with.insert(with.end(), pairs[i].with.times.begin(), pairs[i].with.times.end());
  }
  return quantile(with, q) / quantile(without, q);
}

void print_ratio(const std::vector<Pair>& pairs, double q) {
  std::vector<std::size_t> all(pairs.size()), drawn(pairs.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  std::mt19937 random(1);
  Times ratios;
  for (int draw = 0; draw < 1000; ++draw) {
    for (std::size_t& i : drawn) i = random() % all.size();
    ratios.push_back(ratio(pairs, drawn, q));
  }
  log::info("p{:.0f}: {:.3f} times as long, 90 % [{:.3f}, {:.3f}]", 100 * q, ratio(pairs, all, q),
            quantile(ratios, 0.05), quantile(ratios, 0.95));
}

void print(const std::vector<Pair>& pairs) {
  Times without, with;
  double delay = 0, commit = 0, under_way = 0;
  const auto count = static_cast<double>(pairs.size());
  for (const Pair& pair : pairs) {
    without.insert(without.end(), pair.without.times.begin(), pair.without.times.end());
    with.insert(with.end(), pair.with.times.begin(), pair.with.times.end());
    delay += pair.with.delay / count;
    commit += pair.with.commit / count;
    under_way += pair.with.steps_under_way / count;
  }
  const auto line = [](const char* name, const Times& t) {
    log::info("{}: {} steps, median {:.2f} ms, p90 {:.2f}, p99 {:.2f}, most {:.2f}", name, t.size(),
              1e3 * quantile(t, 0.5), 1e3 * quantile(t, 0.9), 1e3 * quantile(t, 0.99),
              1e3 * quantile(t, 1));
  };
  line("without", without);
  line("with   ", with);
  log::info(
      "a save: {:.0f} ms until it has its name, {:.1f} steps end meanwhile, the optimizer "
      "waits {:.2f} ms; {:.1f} GB resident at most",
      1e3 * commit, under_way, 1e3 * delay, static_cast<double>(peak_resident_bytes()) * 1e-9);
  for (const double q : {0.5, 0.9, 0.99}) print_ratio(pairs, q);
  std::string excess;
  for (std::size_t step = 0; step < std::min<std::size_t>(8, pairs[0].with.times.size()); ++step) {
    Times there;
    for (const Pair& pair : pairs) there.push_back(pair.with.times[step]);
    excess += fmt::format(" {:+.2f}", 1e3 * (quantile(there, 0.5) - quantile(without, 0.5)));
  }
  log::info("from the step that a save begins behind on, median against the median without, ms:{}",
            excess);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return 64;
  Job job(argc, argv);
  const std::vector<std::string> overrides(argv + 5, argv + argc);
  const int turns = std::atoi(argv[2]), steps = std::atoi(argv[3]), warm = 5;
  const std::string root = argv[4];
  TrainConfig config = load_train_config(argv[1], overrides);
  config.train.steps = warm + 2 * turns * steps;
  Learner learner(config, job.world());
  learner.initialize_weights();
  learner.continue_after(0, 0);
  log::info("{} parameters, {} bytes of state a rank", learner.unet().parameters().numel(),
            learner.zero().memory().optimizer_state + learner.zero().memory().ema);
  Stall stall(learner, config, job.world(), root);
  stall.take_turn(warm, false);
  std::vector<Pair> pairs(static_cast<std::size_t>(turns));
  for (std::size_t i = 0; i < pairs.size(); ++i)
    for (const bool saves : {i % 2 == 1, i % 2 == 0})
      (saves ? pairs[i].with : pairs[i].without) = stall.take_turn(steps, saves);
  print(pairs);
  job.world().barrier();
  if (job.world().rank() == 0) std::filesystem::remove_all(root);
  return 0;
}
