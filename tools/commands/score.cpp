// `strata score`: images + prompts -> a score an image.

#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "evaluate/scores.hpp"
#include "evaluate/summary.hpp"

namespace strata::commands {

namespace {

nlohmann::ordered_json to_json(const Interval& interval) {
  return {{"mean", interval.mean},
          {"low", interval.low},
          {"high", interval.high},
          {"count", interval.count}};
}

void print_summary(const ScoreSummary& summary) {
  nlohmann::ordered_json skills;
  for (const auto& [skill, interval] : summary.skills) skills[skill] = to_json(interval);
  const nlohmann::ordered_json document{{"scorer", "world"},
                                        {"images", summary.images},
                                        {"score", to_json(summary.overall)},
                                        {"all_facts_hold", to_json(summary.all_facts_hold)},
                                        {"skills", skills}};
  std::cout << document.dump() << "\n";
}

}  // namespace

int score(const Arguments& arguments, Communicator& world) {
  namespace po = boost::program_options;
  Options options("score --scorer world --images DIR --prompts FILE --out FILE",
                  "Judges every picture by its prompt. The scorer `world` is exact: it reads the "
                  "caption of a\nsmall-world picture and checks each of its facts.",
                  "strata score --scorer world --images images --prompts prompts.jsonl "
                  "--out scores.jsonl --json");
  options.add()("scorer", po::value<std::string>()->default_value("world"), "world")(
      "images", po::value<std::string>(), "folder of strata sample")(
      "prompts", po::value<std::string>(), "the prompt file that the images were made from")(
      "out", po::value<std::string>(), "JSON lines to write, one record an image")(
      "images-per-prompt", po::value<int>()->default_value(0), "0: as many as there are")(
      "mismatched", toggle(), "judge each text by another prompt's picture: the chance level")(
      "seed", po::value<std::uint64_t>()->default_value(17), "of the mismatching")(
      "json", toggle(), "print a summary as JSON");
  if (!options.parse(arguments)) return 0;
  if (options.text("scorer") != "world")
    fail(Exit::usage, "--scorer {}: not known; there is: world", options.text("scorer"));
  if (options.get<int>("images-per-prompt") < 0)
    fail(Exit::usage, "--images-per-prompt {}", options.get<int>("images-per-prompt"));

  const ScoreOptions score_options{.images = options.text("images"),
                                   .images_per_prompt = options.get<int>("images-per-prompt"),
                                   .mismatched = options.flag("mismatched"),
                                   .seed = options.get<std::uint64_t>("seed")};
  const auto records = score_world(world, read_prompts(options.text("prompts")), score_options);
  if (world.rank() != 0) return 0;
  std::string lines;
  for (const auto& record : records) lines += to_json_line(record, "world") + "\n";
  make_directories(parent_of(options.text("out")));
  write_file_atomically(options.text("out"), lines);
  const ScoreSummary summary = summarise(records);
  log::info("{} images: score {:.3f} [{:.3f}, {:.3f}], all facts hold in {:.1f} %", summary.images,
            summary.overall.mean, summary.overall.low, summary.overall.high,
            100 * summary.all_facts_hold.mean);
  if (options.flag("json")) print_summary(summary);
  return 0;
}

}  // namespace strata::commands
