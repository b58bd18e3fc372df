// `strata world`: the miniature study's pictures, captions and prompts.

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "evaluate/world_export.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;

void add_draw_options(Options& options, std::int64_t count, const char* split) {
  options.add()("out", po::value<std::string>(), "what to write")(
      "count", po::value<std::int64_t>()->default_value(count), "how many")(
      "seed", po::value<std::uint64_t>()->default_value(17), "seed of the world")(
      "first", po::value<std::int64_t>()->default_value(0), "number of the first scene")(
      "split", po::value<std::string>()->default_value(split),
      "train | eval: two streams that share no scene")(
      "skills", po::value<std::string>(), "only these, comma separated (default: all ten)")(
      "any-background", toggle(), "random backgrounds where the caption names none");
}

world::Draw draw_of(const Options& options) {
  world::Draw draw;
  draw.seed = options.get<std::uint64_t>("seed");
  draw.first = options.get<std::int64_t>("first");
  draw.count = options.get<std::int64_t>("count");
  if (draw.count < 1 || draw.count > 100'000'000) fail(Exit::usage, "--count {}", draw.count);
  if (draw.first < 0 || draw.first > (std::int64_t{1} << 39))
    fail(Exit::usage, "--first {}", draw.first);
  const std::string& split = options.text("split");
  if (split != "train" && split != "eval")
    fail(Exit::usage, "--split {}: neither train nor eval", split);
  draw.evaluation = split == "eval";
  draw.options.any_background = options.flag("any-background");
  if (options.has("skills")) draw.options.weights = world::parse_skills(options.text("skills"));
  return draw;
}

int render(const Arguments& arguments) {
  Options options("world render --out DIR [options]",
                  "Renders pictures of the small world with their captions.",
                  "strata world render --out pictures --count 20000 --seed 17");
  add_draw_options(options, 1000, "train");
  options.add()("format", po::value<std::string>()->default_value("folder"),
                "folder (PNG files + captions.jsonl) | tar (webdataset shards)")(
      "per-shard", po::value<std::int64_t>()->default_value(1000), "samples a tar shard");
  if (!options.parse(arguments)) return 0;
  const world::Draw draw = draw_of(options);
  const std::string& format = options.text("format");
  const auto per_shard = options.get<std::int64_t>("per-shard");
  if (per_shard < 1) fail(Exit::usage, "--per-shard {}", per_shard);
  if (format == "folder")
    world::write_folder(draw, options.text("out"));
  else if (format == "tar")
    world::write_shards(draw, options.text("out"), per_shard);
  else
    fail(Exit::usage, "--format {}: neither folder nor tar", format);
  return 0;
}

int prompts(const Arguments& arguments) {
  Options options("world prompts --out FILE [options]",
                  "Writes different captions of the small world as a prompt file with skills.",
                  "strata world prompts --out prompts.jsonl --count 200 --split eval");
  add_draw_options(options, 200, "eval");
  options.add()("pictures", po::value<std::string>()->default_value(""),
                "folder for the prompts' true pictures, ID.png: what a perfect model would draw");
  if (!options.parse(arguments)) return 0;
  world::write_prompts(draw_of(options), options.text("out"), options.text("pictures"));
  return 0;
}

}  // namespace

int world(const Arguments& arguments, Communicator&) {
  const std::string what = arguments.empty() ? "--help" : arguments[0];
  if (what == "--help" || what == "-h") {
    std::cout << "usage: strata world render|prompts [options]\n\n"
                 "  render   pictures and captions: a folder or webdataset tar shards\n"
                 "  prompts  a prompt file (JSON lines with skills)\n\nexample:\n"
                 "  strata world render --out pictures --count 20000 --seed 17\n";
    return arguments.empty() ? static_cast<int>(Exit::usage) : 0;
  }
  const Arguments rest(arguments.begin() + 1, arguments.end());
  if (what == "render") return render(rest);
  if (what == "prompts") return prompts(rest);
  fail(Exit::usage, "world {}: neither render nor prompts", what);
}

}  // namespace strata::commands
