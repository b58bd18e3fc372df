// `strata index`: images and captions -> index.jsonl.

#include "data/index.hpp"

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/log.hpp"

namespace strata::commands {

int index(const Arguments& arguments, Communicator&) {
  namespace po = boost::program_options;
  using Texts = std::vector<std::string>;
  Options options(
      "index [--images DIR] [--captions FILE] [INPUT...] --out index.jsonl",
      "Lists a dataset's samples once and for all: a sample's id is its line. Inputs, in this "
      "order:\n"
      "  a folder with JSON lines     {\"image\" or \"file_name\": ..., \"caption\" or \"text\": "
      "...}\n"
      "  a folder with tar shards     img2dataset / webdataset: KEY.jpg|png|webp + KEY.txt|json\n"
      "  a folder with pictures       KEY.jpg|png|webp + KEY.txt beside it\n"
      "  a tar shard, a .jsonl file, or a text file of captions (or IMAGE<tab>CAPTION), one a "
      "line\n"
      "Every image is decoded once. What cannot be used goes to skipped.jsonl with the reason.",
      "strata index --images photos/ --out index.jsonl");
  options.add()("input,i", po::value<Texts>()->composing(), "an input; may be repeated")(
      "images", po::value<std::string>(),
      "folder of the images: an input itself, or where --captions looks names up")(
      "captions", po::value<std::string>(), "JSON lines or text naming files in --images")(
      "out,o", po::value<std::string>()->default_value("index.jsonl"), "the index to write")(
      "skipped", po::value<std::string>(), "default: skipped.jsonl beside the index")(
      "max-bad", po::value<double>()->default_value(0.001), "fraction that may be skipped")(
      "threads", po::value<int>()->default_value(0), "that decode; 0: all of this process");
  options.positional("input", -1);
  if (!options.parse(arguments)) return 0;

  IndexOptions index;
  if (options.has("captions")) index.inputs.push_back(options.text("captions"));
  if (options.has("images")) {
    index.images = options.text("images");
    if (!options.has("captions") && !options.has("input")) index.inputs.push_back(index.images);
  }
  if (options.has("input"))
    for (const std::string& input : options.get<Texts>("input")) index.inputs.push_back(input);
  index.out = options.text("out");
  if (options.has("skipped")) index.skipped = options.text("skipped");
  index.max_bad = options.get<double>("max-bad");
  index.threads = options.get<int>("threads");
  const IndexReport report = build_index(index);
  log::info("{}: {} samples, {} skipped", index.out, report.samples, report.skipped);
  return 0;
}

}  // namespace strata::commands
