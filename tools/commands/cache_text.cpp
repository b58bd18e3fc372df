// `strata cache text`: captions -> text-embedding caches.

#include "precompute/cache_text.hpp"

#include "commands/cache.hpp"
#include "commands/options.hpp"

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
      "pooled", toggle(), "also each caption's last state after the final norm")(
      "max-tokens", po::value<std::size_t>()->default_value(default_max_tokens),
      "special tokens stay, the caption's own ids are cut at the end")(
      "attention", po::value<std::string>()->default_value("auto"),
      "auto, causal or bidirectional")("dtype", po::value<std::string>()->default_value("bfloat16"),
                                       "of the stored values: bfloat16, float16, float32 or int8")(
      "precision", po::value<std::string>()->default_value("fp32"),
      "of the computation: fp32 or bf16")(
      "rows-per-shard", po::value<std::int64_t>()->default_value(0), "0: chosen from the sizes")(
      "overwrite", toggle(), "replace caches that were made with other settings");
  if (!options.parse(arguments)) return 0;

  TextCacheOptions wanted;
  wanted.encoder = options.text("encoder");
  wanted.index = options.text("index");
  wanted.out = options.text("out");
  wanted.strategies = parse_strategies(options.text("strategy"));
  wanted.pooled = options.flag("pooled");
  wanted.max_tokens = options.get<std::size_t>("max-tokens");
  wanted.attention = parse_attention(options.text("attention"));
  wanted.dtype = parse_cache_dtype(options.text("dtype"));
  const std::string& precision = options.text("precision");
  if (precision != "fp32" && precision != "bf16")
    fail(Exit::usage, "--precision {}: fp32 or bf16", precision);
  wanted.compute = precision == "bf16" ? DType::bf16 : DType::f32;
  wanted.rows_per_shard = options.get<std::int64_t>("rows-per-shard");
  wanted.overwrite = options.flag("overwrite");
  strata::cache_text(wanted, world);
  return 0;
}

}  // namespace strata::commands
