// `strata upsample`: short prompts -> detailed prompts with an instruction-tuned decoder model.

#include "evaluate/upsample.hpp"

#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/eval_options.hpp"
#include "commands/generation_options.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "core/stop_signals.hpp"
#include "evaluate/lines.hpp"
#include "model/weights.hpp"
#include "text/unicode.hpp"

namespace strata::commands {

namespace {

namespace po = boost::program_options;

void add_options(Options& options) {
  options.add()("model", po::value<std::string>(),
                "folder with config.json, *.safetensors and the tokenizer")(
      "prompts", po::value<std::string>(), "JSON lines, plain text or genai_image.json")(
      "index", po::value<std::string>(),
      "index.jsonl, in the place of --prompts: rewrites the training captions")(
      "out", po::value<std::string>(), "file to write: JSON lines, or an index")(
      "instructions", po::value<std::string>(),
      "text file with what the model is told; {prompt} in it is where the prompt goes, else it "
      "comes last (default: built in, configs/upsample/instructions.txt)")(
      "precision", po::value<std::string>()->default_value("fp32"), "fp32 or bf16")(
      "device", po::value<std::string>()->default_value("host"), "host or cuda")(
      "overwrite", toggle(), "replace the file, or unfinished work of other settings");
  add_generation_options(options, {1024, 0.01, "auto"});
}

/// Everything that decides the texts, batch and ranks not among it.
std::string plan_of(const GenerationOptions& generation, ChatFormat chat, DType compute,
                    const std::string& instructions, const std::string& weights,
                    const std::string& tokenizer) {
  return nlohmann::ordered_json{{"weights", weights},
                                {"tokenizer", tokenizer},
                                {"instructions", instructions},
                                {"chat", static_cast<int>(chat)},
                                {"precision", name_of(compute)},
                                {"max_new_tokens", generation.max_new_tokens},
                                {"temperature", generation.sampling.temperature},
                                {"top_p", generation.sampling.top_p},
                                {"seed", generation.sampling.seed}}
      .dump();
}

std::string read_instructions(const std::string& path) {
  std::string text = read_file(path, 1 << 20);
  check_utf8(text, path);
  if (trimmed(text).empty()) fail(Exit::data, "{}: holds no instructions", path);
  return text;
}

}  // namespace

int upsample(const Arguments& arguments, Communicator& world) {
  Options options(
      "upsample --model DIR --prompts FILE|--index FILE --out FILE",
      "Has an instruction-tuned decoder model (Llama, Mistral, Qwen2, Gemma2) write each prompt\n"
      "out in detail. --prompts: JSON lines with `upsampled` filled, every other field kept.\n"
      "--index: a new index whose `caption` is the new text; `captions` keeps the old ones behind "
      "it.\nAn empty answer leaves the prompt as it was and is counted. The file is the same "
      "whatever\nranks and batch; a stopped job goes on where it was.",
      "mpirun -np 2 strata upsample --model gemma-2-9b-it --prompts genai_image.json "
      "--out upsampled.jsonl --precision bf16");
  add_options(options);
  if (!options.parse(arguments)) return 0;
  const StopSignals signals;
  if (options.has("prompts") == options.has("index"))
    fail(Exit::usage, "upsample: one of --prompts and --index is needed");
  GenerationOptions generation = generation_options(options);
  const DType compute = eval_precision(options);
  if (options.text("chat") != "auto") chat_format_named(options.text("chat"));
  const std::string& dir = options.text("model");
  UpsampleOptions wanted{options.text("out"), "", options.flag("overwrite")};
  const UpsampleWork work = options.has("prompts")
                                ? upsample_prompts(options.text("prompts"))
                                : upsample_index(options.text("index"), wanted.out);
  const std::string instructions = options.has("instructions")
                                       ? read_instructions(options.text("instructions"))
                                       : default_instructions();

  const Tokenizer tokenizer = Tokenizer::load(dir);
  Exec exec(eval_device(options));
  const auto generator = TextGenerator::load(exec, module_folder(dir, "text_encoder"), compute);
  const ChatFormat chat = chat_option(options, generator.model().config(), tokenizer);
  generation.stop = end_of_turn_ids(chat, tokenizer);
  if (generation.stop.empty() && generator.stop_ids().empty())
    log::warn("{}: neither eos_token_id nor --chat ends an answer: every one has {} tokens", dir,
              generation.max_new_tokens);
  wanted.plan =
      plan_of(generation, chat, compute, instructions,
              world.rank() == 0 ? generator.model().weights_sha256() : "", tokenizer.sha256());

  const UpsampleReport report =
      upsample(world, work, wanted, [&](const std::vector<std::size_t>& rows, const auto& done) {
        auto row = rows.begin();
        const auto next = [&]() -> std::optional<TextRequest> {
          if (row == rows.end()) return std::nullopt;
          const std::size_t own = *row++;
          return TextRequest{
              own, encode_turn(chat, tokenizer, instruct(instructions, work.prompts[own]))};
        };
        generator.generate(exec, generation, next,
                           [&](std::uint64_t at, const std::vector<std::int32_t>& ids) {
                             done(static_cast<std::size_t>(at), tokenizer.decode(ids));
                           });
      });
  log::info("{}: {} prompts, {} of them made now", wanted.out, report.rows, report.made);
  if (report.empty > 0)
    log::warn("{} prompts or answers were empty: those prompts stay as they were", report.empty);
  return 0;
}

}  // namespace strata::commands
