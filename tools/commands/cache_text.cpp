// `strata cache text`: captions -> text-embedding caches.

#include "precompute/cache_text.hpp"

#include "commands/cache.hpp"
#include "commands/eval_options.hpp"
#include "core/stop_signals.hpp"

namespace strata::commands {

namespace po = boost::program_options;

int cache_text(const Arguments& arguments, Communicator& world) {
  Options options(
      "cache text --encoder DIR --index FILE --strategy LIST --out DIR",
      "Encodes every caption of an index with a frozen language model, any number of strategies "
      "in one pass, into OUT/last, OUT/layer_15, ... Continues where a killed run stopped.",
      "mpirun -np 2 strata cache text --encoder data/miniature/encoder --index index.jsonl "
      "--strategy last,norm_avg --pooled --out caches/text");
  options.add()("encoder", po::value<std::string>(),
                "folder with config.json, *.safetensors and tokenizer.json")(
      "index", po::value<std::string>(), "index.jsonl")(
      "strategy", po::value<std::string>(), "last, layer:K, avg, norm_avg, separated by commas")(
      "out", po::value<std::string>(), "folder that receives one cache folder a strategy")(
      "pooled", toggle(),
      "also one state a caption after the final norm: its last token's; CLIP's end of text, "
      "projected")("dtype", po::value<std::string>()->default_value("bfloat16"),
                   "of the stored values: bfloat16, float16, float32 or int8")(
      "precision", po::value<std::string>()->default_value("fp32"),
      "of the computation: fp32 or bf16")("device", po::value<std::string>()->default_value("host"),
                                          "host or cuda: one GPU a rank")(
      "no-graph", toggle(), "on a GPU call every op, play no CUDA graph")(
      "rows-per-shard", po::value<std::int64_t>()->default_value(0), "0: chosen from the sizes")(
      "overwrite", toggle(), "replace caches that were made with other settings")(
      "stream", toggle(),
      "for models larger than memory: keep no layer, read each one from the files for every pass "
      "of many captions; the same bytes")(
      "pass-tokens", po::value<std::int64_t>(),
      "with --stream: tokens of one pass, at most a shard's (default 65536); each takes the width "
      "times 4 bytes a strategy, and 2 more in bf16 or 4 in fp32");
  add_encoder_options(options);
  if (!options.parse(arguments)) return 0;
  const StopSignals signals;

  TextCacheOptions wanted;
  wanted.encoder = options.text("encoder");
  wanted.index = options.text("index");
  wanted.out = options.text("out");
  wanted.strategies = parse_strategies(options.text("strategy"));
  wanted.pooled = options.flag("pooled");
  wanted.max_tokens = max_tokens_option(options);
  wanted.preset = options.text("preset");
  wanted.attention = parse_attention(options.text("attention"));
  wanted.dtype = parse_cache_dtype(options.text("dtype"));
  wanted.compute = eval_precision(options);
  wanted.device = eval_device(options, world.local_rank(), world.local_size());
  wanted.graph = !options.flag("no-graph");
  wanted.rows_per_shard = options.get<std::int64_t>("rows-per-shard");
  wanted.overwrite = options.flag("overwrite");
  wanted.stream = options.flag("stream");
  if (options.has("pass-tokens")) {
    wanted.pass_tokens = options.get<std::int64_t>("pass-tokens");
    if (!wanted.stream) fail(Exit::usage, "--pass-tokens is for --stream");
    if (wanted.pass_tokens < 1)
      fail(Exit::usage, "--pass-tokens {}: at least 1", wanted.pass_tokens);
  }
  strata::cache_text(wanted, world);
  return 0;
}

}  // namespace strata::commands
