#include "train/provenance.hpp"

#include <fmt/core.h>
#include <toml++/impl/version.h>

#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/process.hpp"
#include "train/checkpoint.hpp"
#include "train/metrics.hpp"

namespace strata {

namespace {

const char* instruction_set() {
  if (__builtin_cpu_supports("avx512bf16")) return "avx512bf16";
  if (__builtin_cpu_supports("avx512f")) return "avx512";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  return "baseline";
}

nlohmann::ordered_json cache_json(const std::string& dir, const CacheManifest& manifest) {
  nlohmann::ordered_json j;
  j["dir"] = dir;
  j["manifest_sha256"] = cache_hash(dir);
  j["index_sha256"] = manifest.index_sha256;
  j["model"] = manifest.model;
  j["weights_sha256"] = manifest.weights_sha256;
  if (manifest.kind == CacheKind::text)
    j["strategy"] = manifest.strategy;
  else
    j["latent_kind"] = manifest.latent_kind;
  j["count"] = manifest.count;
  return j;
}

}  // namespace

std::string build_description() {
  return fmt::format("strata {}, gcc {}, {}", STRATA_VERSION, __VERSION__, instruction_set());
}

std::string cache_hash(const std::string& dir) {
  return sha256_file(dir + "/manifest.json");
}

std::string provenance_json(const TrainConfig& config, Learner& learner,
                            Communicator& communicator) {
  const auto& caches = learner.caches();
  nlohmann::ordered_json j;
  j["version"] = STRATA_VERSION;
  j["started"] = utc_now();
  j["config_sha256"] = config_hash(config);
  j["latents"] = cache_json(config.data.latents, caches.latents_manifest());
  j["text"] = cache_json(config.data.text, caches.text_manifest());
  j["samples"] = {{"training", caches.size()},
                  {"validation", caches.size(CacheSet::Part::validation)},
                  {"list_sha256", caches.hash()}};
  j["model"] = {{"parameters", learner.unet().parameters().numel()},
                {"sha256", model_hash(learner.unet().parameters())}};
  j["ranks"] = communicator.size();
  j["threads"] = learner.exec().threads();
  j["microbatch"] = learner.microbatch();
  j["hosts"] = communicator.all_gather_strings(host_name());
  j["build"] = build_description();
  j["libraries"] = {
      {"fmt", FMT_VERSION},
      {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"toml++", fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH)},
  };
  return j.dump(2) + "\n";
}

}  // namespace strata
