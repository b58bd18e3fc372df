// strata train (MPI).

#include <cstdio>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "commands/preview.hpp"
#include "core/log.hpp"
#include "train/trainer.hpp"

namespace strata::commands {

namespace po = boost::program_options;

int train(const Arguments& arguments, Communicator& communicator) {
  Options options("train --config FILE",
                  "Trains from a TOML config. Alone as one rank, or under mpirun or srun.",
                  "mpirun -np 4 strata train --config configs/recipe/sd2-256.toml "
                  "--set output.dir=runs/first");
  options.add()("config", po::value<std::string>(), "TOML file (see `strata config keys`)")(
      "set", po::value<std::vector<std::string>>()->composing(), "table.key=value, repeatable")(
      "resume", po::value<std::string>()->default_value("auto"),
      "auto: from the newest checkpoint of the run folder, if any; never; or a checkpoint folder")(
      "overwrite", toggle(), "with --resume never: remove what an earlier run left")(
      "dry-run", toggle(), "say what the run would need, and stop")(
      "no-graph", toggle(), "train.graph = false: on a GPU call every op, play no CUDA graph")(
      "dump-steps", po::value<std::int64_t>()->default_value(0),
      "write the inputs of the first N steps to dump/")(
      "trace", po::value<std::string>()->default_value(""),
      "file: what every thread of every rank does during a few steps, for chrome://tracing or "
      "Perfetto")("trace-steps", po::value<std::int64_t>()->default_value(3),
                  "so many steps, behind the first two");
  if (!options.parse(arguments)) return 0;
  auto overrides = options.has("set") ? options.get<std::vector<std::string>>("set")
                                      : std::vector<std::string>{};
  if (options.flag("no-graph")) overrides.emplace_back("train.graph=false");
  const TrainConfig config = load_train_config(options.text("config"), overrides);

  TrainOptions how;
  how.resume = options.text("resume");
  how.overwrite = options.flag("overwrite");
  how.dump_steps = options.get<std::int64_t>("dump-steps");
  how.trace = options.text("trace");
  how.trace_steps = options.get<std::int64_t>("trace-steps");
  if (how.trace_steps < 1) fail(Exit::usage, "--trace-steps: must be at least 1");
  if (how.overwrite && how.resume != "never")
    fail(Exit::usage, "--overwrite goes with --resume never");
  if (how.dump_steps < 0) fail(Exit::usage, "--dump-steps: negative");
  if (how.resume.empty()) fail(Exit::usage, "--resume: empty");
  if (options.flag("dry-run")) {
    const std::string plan = plan_training(config, communicator);
    log::info("{}", plan);
    return 0;
  }
  if (!config.samples.prompts.empty())
    how.make_preview = [&] { return preview_images(config, communicator); };
  const TrainResult result = run_training(config, how, communicator);
  return static_cast<int>(result.stopped ? Exit::requeue : Exit::ok);
}

}  // namespace strata::commands
