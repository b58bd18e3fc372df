// `strata eval text`: captions -> hidden states of an embedding strategy. `strata eval encoder`: a
// text model against states dumped elsewhere.

#include <nlohmann/json.hpp>

#include "commands/eval.hpp"
#include "commands/eval_options.hpp"
#include "core/safetensors.hpp"
#include "model/weights.hpp"
#include "text/encoder_reference.hpp"
#include "text/text_encoder.hpp"

namespace strata::commands {

namespace po = boost::program_options;

namespace {

int describe(const std::string& folder) {
  const auto config = TextConfig::from_json_file(folder + "/config.json");
  const nlohmann::ordered_json json{{"model_type", config.model_type},
                                    {"parameters", published_parameter_count(config)},
                                    {"encoder_parameters", parameter_count(config)},
                                    {"width", config.width},
                                    {"layers", config.layers},
                                    {"vocabulary", config.vocabulary}};
  std::cout << json.dump() << "\n";
  return 0;
}

}  // namespace

int eval_text(const Arguments& arguments) {
  Options options(
      "eval text --model DIR --input FILE --output OUT.safetensors --strategy S",
      "Encodes each line of a UTF-8 text file with a text model of the families Llama, Mistral, "
      "Qwen2, Gemma2, T5 (its encoder) or CLIP. Writes input_ids (T), offsets (n+1), hidden (T,D), "
      "with --pooled pooled (n,P), with --all-layers layers (L+1,T,D); T = tokens of all lines "
      "laid end to end.",
      "strata eval text --model data/miniature/encoder --input captions.txt "
      "--output out.safetensors --strategy norm_avg --pooled");
  add_eval_options(options, "folder with config.json, *.safetensors and the tokenizer",
                   "text file, one caption a line", "safetensors file to write");
  options.add()("strategy", po::value<std::string>()->default_value("last"),
                "last, layer:K, avg or norm_avg")(
      "pooled", toggle(),
      "also one state a caption after the final norm: its last token's; CLIP's end of text, "
      "projected")("all-layers", toggle(), "also every hidden state")(
      "describe", toggle(), "print sizes and parameter counts as JSON; needs config.json only");
  add_encoder_options(options);
  if (!options.parse(arguments)) return 0;
  if (options.flag("describe"))
    return describe(module_folder(options.text("model"), "text_encoder"));

  EncodeOptions wanted;
  wanted.strategies = {options.text("strategy")};
  Strategy::parse(wanted.strategies.front());
  wanted.pooled = options.flag("pooled");
  wanted.all_layers = options.flag("all-layers");
  wanted.attention = parse_attention(options.text("attention"));
  wanted.max_tokens = max_tokens_option(options);
  const DType compute = eval_precision(options);
  const std::string& output = options.text("output");

  const std::vector<std::string> captions = read_text_lines(options.text("input"));
  Exec exec(eval_device(options));
  const TextEncoder encoder =
      TextEncoder::load(exec, options.text("model"), compute, options.text("preset"));
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

int eval_encoder(const Arguments& arguments) {
  Options options(
      "eval encoder --model DIR --ref FILE",
      "Holds a text model against hidden states that were dumped elsewhere with the same weights. "
      "Prints JSON: the largest relative L2 difference over all tokens, by layer; writes nothing.",
      "strata eval encoder --model Mistral-7B-v0.1 --ref dumped.safetensors --precision bf16");
  options.add()("model", po::value<std::string>(), "folder with config.json and *.safetensors")(
      "ref", po::value<std::string>(),
      "safetensors: input_ids (T), offsets (n+1), layers (L+1,T,D), the last after the final norm")(
      "precision", po::value<std::string>()->default_value("fp32"), "fp32 or bf16")(
      "device", po::value<std::string>()->default_value("host"), "host or cuda")(
      "attention", po::value<std::string>()->default_value("auto"),
      "auto (the preset's, else the model's own), causal or bidirectional")(
      "preset", po::value<std::string>()->default_value("auto"),
      "a file of configs/encoders by name; auto: by the folder's name; none");
  if (!options.parse(arguments)) return 0;
  const AttentionMode attention = parse_attention(options.text("attention"));
  const std::string& dir = options.text("model");
  const EncoderReference reference(options.text("ref"));
  Exec exec(eval_device(options));
  const TextModel model =
      TextModel::load(exec, module_folder(dir, "text_encoder"), eval_precision(options));
  const auto preset = fitting_preset(options.text("preset"), dir, model.config());
  const LayerDifferences found =
      compare_layers(exec, model, reference, is_causal(attention, preset, model.config()));
  const nlohmann::ordered_json json{{"largest", found.largest}, {"layers", found.by_layer}};
  std::cout << json.dump() << "\n";
  return 0;
}

}  // namespace strata::commands
