// `strata tokenize`: lines -> token ids.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/log.hpp"
#include "text/tokenizer.hpp"

namespace strata::commands {

namespace po = boost::program_options;

int tokenize(const Arguments& arguments, Communicator& world) {
  log::set_quiet(true);
  Options options(
      "tokenize --model DIR --input FILE [--raw] [--max-tokens N]",
      "Prints one JSON array of token ids for each line of a UTF-8 text file, exactly as the "
      "model is fed them when it encodes that caption.",
      "strata tokenize --model data/miniature/encoder --input captions.txt");
  options.add()(
      "model", po::value<std::string>(),
      "folder with tokenizer.json, tokenizer.model, spiece.model, or vocab.json and merges.txt")(
      "input", po::value<std::string>(), "text file, one caption a line")(
      "raw", toggle(), "leave the special tokens out and cut nothing")(
      "max-tokens", po::value<std::size_t>(),
      "special tokens stay, the caption's own ids are cut at the end (default 77 for CLIP, else "
      "256; 0: no "
      "limit)");
  if (!options.parse(arguments)) return 0;
  const bool raw = options.flag("raw");
  const Tokenizer tokenizer = Tokenizer::load(options.text("model"));
  const std::size_t limit = options.has("max-tokens") ? options.get<std::size_t>("max-tokens")
                            : raw                     ? 0
                                                      : tokenizer.default_max_tokens();
  std::string text;
  for (const std::string& line : read_text_lines(options.text("input")))
    text += nlohmann::json(tokenizer.encode(line, !raw, limit)).dump() + '\n';
  if (world.rank() == 0) std::cout << text << std::flush;
  return 0;
}

}  // namespace strata::commands
