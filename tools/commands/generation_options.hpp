#pragma once
// What the commands that generate text have in common on the command line.

#include "commands/options.hpp"
#include "model/text_generator.hpp"
#include "text/chat.hpp"

namespace strata::commands {

struct GenerationDefaults {
  std::int64_t max_new_tokens;
  double temperature;
  const char* chat;
};

inline void add_generation_options(Options& options, const GenerationDefaults& defaults) {
  namespace po = boost::program_options;
  options.add()("max-new-tokens", po::value<std::int64_t>()->default_value(defaults.max_new_tokens),
                "new tokens of a text at most")(
      "temperature", po::value<double>()->default_value(defaults.temperature),
      "divides the logits before a token is drawn; 0: greedy")(
      "top-p", po::value<double>()->default_value(1.0),
      "draw from the fewest likeliest tokens whose probabilities reach this")(
      "seed", po::value<std::uint64_t>()->default_value(0),
      "of the draws, which depend on it, the text's row and the token's place alone")(
      "chat", po::value<std::string>()->default_value(defaults.chat),
      "how a prompt is put to the model: none (plain text with its special tokens), gemma, llama3, "
      "mistral, qwen2, or auto (by the folder)")(
      "batch", po::value<std::int64_t>()->default_value(16), "texts at once on a rank");
}

inline GenerationOptions generation_options(const Options& options) {
  GenerationOptions read;
  read.max_new_tokens = options.get<std::int64_t>("max-new-tokens");
  read.batch = options.get<std::int64_t>("batch");
  read.sampling = {options.get<double>("temperature"), options.get<double>("top-p"),
                   options.get<std::uint64_t>("seed")};
  const auto out_of = [](const char* name, auto value, const char* range) {
    fail(Exit::usage, "--{} {}: not in {}", name, value, range);
  };
  const auto& [temperature, top_p, seed] = read.sampling;
  if (read.max_new_tokens < 1 || read.max_new_tokens > 1'000'000)
    out_of("max-new-tokens", read.max_new_tokens, "1..1000000");
  if (read.batch < 1 || read.batch > 4096) out_of("batch", read.batch, "1..4096");
  if (!(temperature >= 0 && temperature <= 100)) out_of("temperature", temperature, "0..100");
  if (!(top_p > 0 && top_p <= 1)) out_of("top-p", top_p, "(0, 1]");
  return read;
}

/// --chat, with the model at hand.
inline ChatFormat chat_option(const Options& options, const TextConfig& config,
                              const Tokenizer& tokenizer) {
  const std::string& name = options.text("chat");
  return name == "auto" ? chat_format_of(config, tokenizer, options.text("model"))
                        : chat_format_named(name);
}

}  // namespace strata::commands
