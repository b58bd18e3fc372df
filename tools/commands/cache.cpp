// `strata cache latents|verify|stats`, and the way to `cache text`.

#include "commands/cache.hpp"

#include <algorithm>

#include "commands/eval_options.hpp"
#include "core/log.hpp"
#include "core/stop_signals.hpp"
#include "data/cache_reader.hpp"
#include "precompute/cache_latents.hpp"

namespace strata::commands {

namespace {

/// Rows by token length in at most 20 bins, with bars.
void print_histogram(const std::vector<std::int64_t>& rows) {
  if (rows.empty()) return;
  const std::size_t width = (rows.size() + 19) / 20;
  std::vector<std::int64_t> bins((rows.size() + width - 1) / width);
  for (std::size_t tokens = 0; tokens < rows.size(); ++tokens) bins[tokens / width] += rows[tokens];
  const std::int64_t most = std::max<std::int64_t>(*std::max_element(bins.begin(), bins.end()), 1);
  log::info("  tokens      rows");
  for (std::size_t i = 0; i < bins.size(); ++i)
    log::info("  {:>4}-{:<4} {:>8}  {}", i * width, (i + 1) * width - 1, bins[i],
              std::string(static_cast<std::size_t>(bins[i] * 50 / most), '#'));
}

int cache_latents(const Arguments& arguments, Communicator& world) {
  namespace po = boost::program_options;
  Options options(
      "cache latents --vae DIR --index FILE --resolution N --out DIR",
      "Encodes every image once: shorter side to N, centre crop, VAE encoder. Runs under "
      "mpirun; a killed\nrun continues where it stopped, and the result is the same bytes.",
      "mpirun -np 4 strata cache latents --vae sd2/vae --index index.jsonl --resolution 256 "
      "--out caches/latents");
  options.add()("vae,model", po::value<std::string>(), "folder of the VAE, or of its pipeline")(
      "index", po::value<std::string>(), "index.jsonl of strata index")(
      "out,o", po::value<std::string>(), "the cache's folder")(
      "resolution", po::value<int>()->default_value(256), "side of the square pictures in pixels")(
      "kind", po::value<std::string>()->default_value("sample"),
      "sample (a draw from the posterior), mean, or moments (mean and deviation: training draws "
      "afresh every epoch; twice the bytes)")(
      "dtype", po::value<std::string>()->default_value("bfloat16"), "bfloat16, float16 or float32")(
      "resample", po::value<std::string>()->default_value("bilinear"),
      "bilinear, bicubic or lanczos")("precision", po::value<std::string>()->default_value("fp32"),
                                      "of the encoder: fp32 or bf16")(
      "device", po::value<std::string>()->default_value("host"), "host or cuda: one GPU a rank")(
      "seed", po::value<std::uint64_t>()->default_value(17), "of the posterior draws")(
      "batch", po::value<int>()->default_value(8), "images encoded together")(
      "rows-per-shard", po::value<std::int64_t>()->default_value(0), "0: by the dataset's size")(
      "overwrite", toggle(), "replace a cache of other settings");
  if (!options.parse(arguments)) return 0;
  LatentOptions latents;
  latents.vae = options.text("vae");
  latents.index = options.text("index");
  latents.out = options.text("out");
  latents.resolution = options.get<int>("resolution");
  latents.kind = options.text("kind");
  latents.dtype = parse_cache_dtype(options.text("dtype"));
  latents.resample = parse_resample(options.text("resample"));
  latents.compute = eval_precision(options);
  latents.device = eval_device(options, world.local_rank(), world.local_size());
  latents.seed = options.get<std::uint64_t>("seed");
  latents.batch = options.get<int>("batch");
  latents.rows_per_shard = options.get<std::int64_t>("rows-per-shard");
  latents.overwrite = options.flag("overwrite");
  const StopSignals signals;
  strata::cache_latents(latents, world);
  return 0;
}

int cache_verify(const Arguments& arguments) {
  namespace po = boost::program_options;
  Options options("cache verify DIR...",
                  "Checks every checksum: each shard's hashes, each row's CRC-32C.",
                  "strata cache verify caches/latents caches/text/last");
  options.add()("dir", po::value<std::vector<std::string>>(), "cache folder; may be repeated");
  options.positional("dir", -1);
  if (!options.parse(arguments)) return 0;
  for (const std::string& dir : options.get<std::vector<std::string>>("dir")) {
    verify_cache(dir);
    const CacheManifest manifest = CacheManifest::load(dir);
    log::info("{}: sound: {} samples in {} shards", dir, manifest.count, manifest.shards.size());
  }
  return 0;
}

int cache_stats(const Arguments& arguments) {
  namespace po = boost::program_options;
  Options options("cache stats DIR [--json]",
                  "Counts, non-finite values, moments, token-length histogram, bytes.",
                  "strata cache stats caches/text/last --json");
  options.add()("dir", po::value<std::string>(), "cache folder")("json", toggle(),
                                                                 "JSON to stdout");
  options.positional("dir");
  if (!options.parse(arguments)) return 0;
  const CacheReader cache(options.text("dir"));
  const CacheStats stats = strata::cache_stats(cache);
  if (options.flag("json")) {
    std::cout << stats.to_json() << "\n";
    return 0;
  }
  const CacheManifest& manifest = cache.manifest();
  log::info("{}: {} cache, {}", cache.dir(),
            manifest.kind == CacheKind::text ? "text" : "latent " + manifest.latent_kind,
            name_of(manifest.dtype));
  log::info("  samples {}, tokens {}, bytes {}", stats.count, stats.tokens, stats.bytes);
  log::info("  NaN {}, infinite {}", stats.nan, stats.infinite);
  log::info("  mean {:.5g}, std {:.5g}, min {:.5g}, max {:.5g}", stats.mean, stats.std, stats.min,
            stats.max);
  if (manifest.dtype == CacheDType::int8)
    log::info("  int8 took away {:.3g} of the values (relative root mean square)",
              stats.storage_error);
  if (const auto& d = stats.deviations)
    log::info("  deviations of the posteriors: mean {:.5g}, min {:.5g}, max {:.5g}", d->mean,
              d->min, d->max);
  print_histogram(stats.token_histogram);
  return 0;
}

}  // namespace

int cache(const Arguments& arguments, Communicator& world) {
  const std::string what = arguments.empty() ? "--help" : arguments.front();
  const Arguments rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (what == "text") return cache_text(rest, world);
  if (what == "latents") return cache_latents(rest, world);
  release_stop_signals();
  if (what == "verify") return cache_verify(rest);
  if (what == "stats") return cache_stats(rest);
  if (what != "--help" && what != "-h")
    fail(Exit::usage, "strata cache {}: text, latents, verify or stats", what);
  std::cout << "usage: strata cache text|latents|verify|stats [options]\n\n"
               "  text     captions -> text-embedding caches (MPI)\n"
               "  latents  images -> VAE latent cache (MPI)\n"
               "  verify   checks every checksum\n"
               "  stats    counts, NaN, token lengths, bytes\n\n"
               "example:\n  strata cache latents --help\n";
  return arguments.empty() ? static_cast<int>(Exit::usage) : 0;
}

}  // namespace strata::commands
