// `strata eval text`: captions -> hidden states of an embedding strategy.

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "core/safetensors.hpp"
#include "text/text_encoder.hpp"

namespace strata::commands {

namespace po = boost::program_options;

int eval_text(const Arguments& arguments) {
  Options options(
      "eval text --model DIR --input FILE --output OUT.safetensors --strategy S",
      "Encodes each line of a UTF-8 text file. Writes input_ids (T), offsets (n+1), hidden "
      "(T,D), with --pooled pooled (n,D), with --all-layers layers (L+1,T,D); T = tokens of "
      "all lines laid end to end.",
      "strata eval text --model data/miniature/encoder --input captions.txt "
      "--output out.safetensors --strategy norm_avg --pooled");
  add_eval_options(options, "folder with config.json, *.safetensors and tokenizer.json",
                   "text file, one caption a line", "safetensors file to write");
  options.add()("strategy", po::value<std::string>()->default_value("last"),
                "last, layer:K, avg or norm_avg")(
      "pooled", toggle(), "also the last token's state after the final norm")(
      "all-layers", toggle(), "also every hidden state")(
      "max-tokens", po::value<std::size_t>()->default_value(default_max_tokens),
      "special tokens stay, the caption's own ids are cut at the end")(
      "attention", po::value<std::string>()->default_value("auto"),
      "auto, causal or bidirectional");
  if (!options.parse(arguments)) return 0;

  EncodeOptions wanted;
  wanted.strategies = {options.text("strategy")};
  Strategy::parse(wanted.strategies.front());
  wanted.pooled = options.flag("pooled");
  wanted.all_layers = options.flag("all-layers");
  wanted.attention = parse_attention(options.text("attention"));
  wanted.max_tokens = options.get<std::size_t>("max-tokens");
  if (wanted.max_tokens == 0) fail(Exit::usage, "--max-tokens 0: at least 1");
  const DType compute = eval_precision(options);
  const std::string& output = options.text("output");

  const std::vector<std::string> captions = read_text_lines(options.text("input"));
  Exec exec(eval_device(options));
  const TextEncoder encoder = TextEncoder::load(exec, options.text("model"), compute);
  const Encoded encoded = encoder.encode(exec, captions, wanted);
  SafetensorsWriter writer;
  writer.add("input_ids", encoded.ids.tensor());
  writer.add("offsets", encoded.offsets.tensor());
  writer.add("hidden", encoded.hidden.front().tensor());
  if (wanted.pooled) writer.add("pooled", encoded.pooled.tensor());
  if (wanted.all_layers) writer.add("layers", encoded.layers.tensor());
  writer.write(output);
  return 0;
}

}  // namespace strata::commands
