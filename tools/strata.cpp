// Exit policy only: which command, what an exception becomes, what every rank does about it.

#include <csignal>
#include <cstdio>
#include <new>
#include <optional>

#include "commands/commands.hpp"
#include "core/activity.hpp"
#include "core/error.hpp"
#include "core/log.hpp"
#include "core/stop_signals.hpp"
#include "dist/communicator.hpp"
#include "dist/monitor.hpp"

namespace {

using namespace strata;

struct Command {
  std::string_view name, about;
  int (*run)(const commands::Arguments&, Communicator&);
  bool parallel;       // runs under mpirun or srun with any number of ranks
  bool stops = false;  // on request, to be continued: exit 75
};

constexpr Command table[] = {
    {"index", "images and captions -> index.jsonl, the fixed list of samples", commands::index,
     false},
    {"cache", "text | latents | verify | stats: the HDF5 caches of embeddings and latents",
     commands::cache, true, true},
    {"train", "trains a U-Net from a TOML config, sharded over the ranks", commands::train, true,
     true},
    {"profile", "where the time of a training step goes", commands::profile, true},
    {"config", "show | validate | diff | keys of a training config", commands::config, false},
    {"sample", "prompts -> PNG images", commands::sample, true, true},
    {"upsample", "short prompts -> detailed prompts", commands::upsample, true, true},
    {"score", "images + prompts -> a score per image", commands::score, true},
    {"report", "scores and runs -> tables, figures, one HTML page", commands::report, false},
    {"convert", "checkpoint <-> diffusers folder", commands::convert, false},
    {"inspect", "says what a cache, checkpoint or model folder holds", commands::inspect, false},
    {"tokenize", "lines -> token ids", commands::tokenize, false},
    {"eval", "runs one module on tensors from a file", commands::eval, false},
    {"world", "renders the miniature study's pictures, captions and prompts", commands::world,
     false},
};

void print_usage(std::FILE* to) {
  fmt::print(to, "usage: strata COMMAND [options]\n\n");
  for (const auto& c : table)
    fmt::print(to, "  {:<10} {}{}\n", c.name, c.about, c.parallel ? "  (MPI)" : "");
  fmt::print(
      to,
      "\n`strata COMMAND --help` shows a command's options and an example. Commands marked (MPI)\n"
      "run under mpirun or srun, or alone as one rank.\n");
}

/// Whatever a file name or a file's content put into a message, it is one line.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

/// The last line of stderr, from the lowest failing rank only.
int report_failure(Communicator& world, const std::string& what, Exit code) {
  activity::set_life(activity::Life::failing);
  if (world.reports_failure()) {
    // What all ranks agreed on names its rank already.
    const bool named = world.size() == 1 || what.starts_with("rank ");
    const std::string rank = named ? "" : fmt::format("rank {}: ", world.rank());
    fmt::print(stderr, "strata: error: {}{}\n", rank, one_line(what));
  }
  return static_cast<int>(code);
}

int run(const Command& command, const commands::Arguments& arguments, Communicator& world) {
  try {
    return command.run(arguments, world);
  } catch (const Error& e) {
    if (e.code() == Exit::requeue) {
      log::info("{}", e.what());
      return static_cast<int>(Exit::requeue);
    }
    return report_failure(world, e.what(), e.code());
  } catch (const std::bad_alloc&) {
    return report_failure(world, "out of memory", Exit::internal);
  } catch (const std::exception& e) {
    return report_failure(world, e.what(), Exit::internal);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write (EFBIG)
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    print_usage(stdout);
    return argc > 1 ? 0 : static_cast<int>(Exit::usage);
  }
  if (name == "--version") {
    fmt::print("strata {}\n", STRATA_VERSION);
    return 0;
  }
  for (const auto& command : table) {
    if (command.name != name) continue;
    const commands::Arguments arguments(argv + 2, argv + argc);
    // A stop that is asked for before the command can answer it is kept, not fatal.
    if (command.stops) hold_stop_signals();
    try {
      std::optional<Monitor> monitor;
      if (command.parallel) monitor.emplace();
      Job job(argc, argv);
      if (monitor) monitor->join(job.world());
      log::set_rank(job.world().rank(), job.world().size());
      const int code = run(command, arguments, job.world());
      if (code != 0 && job.world().size() > 1 && code != static_cast<int>(Exit::requeue))
        job.world().abort(code);
      return code;
    } catch (const Error& e) {
      fmt::print(stderr, "strata: error: {}\n", one_line(e.what()));
      return static_cast<int>(e.code());
    }
  }
  fmt::print(stderr, "strata: error: unknown command '{}' (see strata --help)\n", name);
  return static_cast<int>(Exit::usage);
}
