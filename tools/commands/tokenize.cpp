// `strata tokenize`: lines -> token ids.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "core/log.hpp"
#include "text/tokenizer.hpp"

namespace strata::commands {

namespace po = boost::program_options;

namespace {

/// "[1, 2]" -> the text of these ids as a JSON string.
std::string decoded(const Tokenizer& tokenizer, const std::string& line, const std::string& where) {
  const nlohmann::json ids = parse_json(line, where);
  const auto is_id = [](const auto& id) {
    return id.is_number_unsigned() && id.template get<std::uint64_t>() < (1u << 31);
  };
  if (!ids.is_array() || !std::all_of(ids.begin(), ids.end(), is_id))
    fail(Exit::data, "{}: not a JSON array of token ids", where);
  return nlohmann::json(tokenizer.decode(ids.get<std::vector<std::int32_t>>())).dump();
}

}  // namespace

int tokenize(const Arguments& arguments, Communicator& world) {
  log::set_quiet(true);
  Options options(
      "tokenize --model DIR --input FILE [--raw] [--max-tokens N] [--decode]",
      "Prints one JSON array of token ids for each line of a UTF-8 text file, exactly as the "
      "model is fed them when it encodes that caption.",
      "strata tokenize --model data/miniature/encoder --input captions.txt");
  options.add()(
      "model", po::value<std::string>(),
      "folder with tokenizer.json, tokenizer.model, spiece.model, or vocab.json and merges.txt")(
      "input", po::value<std::string>(), "text file, one caption a line")(
      "raw", toggle(), "leave the special tokens out and cut nothing")(
      "decode", toggle(), "the other way: a JSON array of ids a line -> its text as a JSON string")(
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
  std::string out;
  std::size_t number = 0;
  for (const std::string& line : read_text_lines(options.text("input"))) {
    ++number;
    if (options.flag("decode"))
      out += decoded(tokenizer, line, fmt::format("{}: line {}", options.text("input"), number));
    else
      out += nlohmann::json(tokenizer.encode(line, !raw, limit)).dump();
    out += '\n';
  }
  if (world.rank() == 0) std::cout << out << std::flush;
  return 0;
}

}  // namespace strata::commands
