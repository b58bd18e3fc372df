// `strata eval generate`: prompts -> the ids that a decoder model goes on with.

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "commands/generation_options.hpp"
#include "core/safetensors.hpp"
#include "model/weights.hpp"

namespace strata::commands {

namespace {

void write(const std::string& path, const std::vector<std::vector<std::int32_t>>& texts) {
  std::vector<std::int64_t> ids, offsets{0};
  for (const auto& text : texts) {
    ids.insert(ids.end(), text.begin(), text.end());
    offsets.push_back(std::ssize(ids));
  }
  SafetensorsWriter writer;
  writer.add("output_ids", view_of(ids.data(), {std::ssize(ids)}));
  writer.add("offsets", view_of(offsets.data(), {std::ssize(offsets)}));
  writer.write(path);
}

}  // namespace

int eval_generate(const Arguments& arguments) {
  Options options(
      "eval generate --model DIR --input FILE --output OUT.safetensors",
      "Goes on with each line of a UTF-8 text file with a decoder model (Llama, Mistral, Qwen2, "
      "Gemma2). Writes output_ids (T) and offsets (n+1): the new tokens only, up to and without an "
      "id of eos_token_id (generation_config.json wins over config.json; with --chat also the "
      "format's end of turn). Nothing else of generation_config.json applies.",
      "strata eval generate --model data/miniature/encoder --input prompts.txt "
      "--output out.safetensors --max-new-tokens 40");
  add_eval_options(options, "folder with config.json, *.safetensors and the tokenizer",
                   "text file, one prompt a line", "safetensors file to write");
  add_generation_options(options, {64, 0, "none"});
  if (!options.parse(arguments)) return 0;
  GenerationOptions generation = generation_options(options);
  const DType compute = eval_precision(options);
  const std::string &dir = options.text("model"), &output = options.text("output");
  if (options.text("chat") != "auto") chat_format_named(options.text("chat"));

  const std::vector<std::string> lines = read_text_lines(options.text("input"));
  const Tokenizer tokenizer = Tokenizer::load(dir);
  Exec exec(eval_device(options));
  const auto generator = TextGenerator::load(exec, module_folder(dir, "text_encoder"), compute);
  const ChatFormat chat = chat_option(options, generator.model().config(), tokenizer);
  generation.stop = end_of_turn_ids(chat, tokenizer);
  std::vector<std::vector<std::int32_t>> texts(lines.size());
  std::size_t row = 0;
  const auto next = [&]() -> std::optional<TextRequest> {
    if (row == lines.size()) return std::nullopt;
    const std::size_t own = row++;
    return TextRequest{own, encode_turn(chat, tokenizer, lines[own])};
  };
  generator.generate(exec, generation, next,
                     [&](std::uint64_t at, const std::vector<std::int32_t>& ids) {
                       texts[static_cast<std::size_t>(at)] = ids;
                     });
  write(output, texts);
  return 0;
}

}  // namespace strata::commands
