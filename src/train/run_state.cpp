#include "train/run_state.hpp"

#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "core/log.hpp"
#include "diffusion/sampler_config.hpp"
#include "train/checkpoint_files.hpp"
#include "train/provenance.hpp"

namespace strata {

namespace {

nlohmann::json parse_host(const CheckpointInfo& info) {
  auto json = parse_json(info.host_json, info.path + "/MANIFEST.json", 32);
  if (!json.is_object()) fail(Exit::data, "{}: host state is not an object", info.path);
  return json;
}

template <class T>
T member(const nlohmann::json& json, const char* key, const std::string& path) {
  const auto it = json.find(key);
  const bool fits = it != json.end() &&
                    (std::is_same_v<T, std::string> ? it->is_string() : it->is_number_integer());
  if (!fits) fail(Exit::data, "{}: host state: {} is missing or malformed", path, key);
  return it->get<T>();
}

/// The config of the run that saved the checkpoint; a key that has since gone makes it unreadable.
TrainConfig saved_config(const nlohmann::json& host, const CheckpointInfo& info) {
  return parse_train_config(member<std::string>(host, "config", info.path), info.path);
}

constexpr std::string_view trash_prefix = ".trash-";

bool is_whole(const std::string& path) {
  try {
    checkpoint::read_valid_manifest(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::int64_t step_of(const std::string& name) {
  std::int64_t step = -1;
  const auto digits = std::string_view(name).substr(std::string_view("step-").size());
  std::from_chars(digits.data(), digits.data() + digits.size(), step);
  return step;
}

}  // namespace

std::string host_json(const RunState& state, const TrainConfig& config, Learner& learner,
                      int ranks) {
  const auto& text = learner.caches().text_manifest();
  nlohmann::ordered_json j;
  j["step"] = state.step;
  j["updates"] = state.updates;
  j["skipped"] = state.skipped;
  j["sample_list_sha256"] = learner.caches().hash();
  j["latents_sha256"] = learner.latents_hash();
  j["text_sha256"] = learner.text_hash();
  j["text_strategy"] = text.strategy;
  j["text_max_tokens"] = text.max_tokens;
  j["text_attention"] = text.attention;
  j["pooled"] = config.data.pooled;
  j["unet"] = nlohmann::ordered_json::parse(learner.unet().config().to_json());
  SamplerConfig sampler;
  sampler.schedule = learner.schedule();
  j["scheduler"] = sampler.to_json();
  j["ranks"] = ranks;
  j["threads"] = learner.exec().threads();
  j["microbatch"] = learner.microbatch();
  j["build"] = build_description();
  j["config"] = to_toml(config, false);
  return j.dump();
}

RunState parse_run_state(const CheckpointInfo& info) {
  const auto host = parse_host(info);
  RunState state;
  state.step = member<std::int64_t>(host, "step", info.path);
  state.updates = member<std::int64_t>(host, "updates", info.path);
  state.skipped = member<int>(host, "skipped", info.path);
  if (state.step != info.step || state.updates < 0 || state.updates > state.step)
    fail(Exit::data, "{}: host state: step {} and updates {} do not fit checkpoint {}", info.path,
         state.step, state.updates, info.step);
  return state;
}

void check_same_run(const CheckpointInfo& info, const TrainConfig& config, Learner& learner) {
  const auto host = parse_host(info);
  if (info.config_hash != config_hash(config)) {
    const auto changes = config_differences(saved_config(host, info), config, Effect::run);
    fail(Exit::mismatch, "{}: saved by another run: {}", info.path,
         changes.empty() ? "its config has other keys"
                         : fmt::format("{}", fmt::join(changes, "; ")));
  }
  const auto same = [&](const char* key, const std::string& now, const std::string& what) {
    if (member<std::string>(host, key, info.path) != now)
      fail(Exit::mismatch, "{}: saved by a run on other data: {}", info.path, what);
  };
  same("sample_list_sha256", learner.caches().hash(), "the list of samples differs");
  same("latents_sha256", learner.latents_hash(), config.data.latents);
  same("text_sha256", learner.text_hash(), config.data.text);
}

std::vector<std::string> rounding_differences(const CheckpointInfo& info, const TrainConfig& config,
                                              Learner& learner, int ranks) {
  const auto host = parse_host(info);
  auto lines = config_differences(saved_config(host, info), config, Effect::rounding);
  const auto compare = [&](const char* key, std::int64_t now) {
    const auto before = member<std::int64_t>(host, key, info.path);
    if (before != now) lines.push_back(fmt::format("{}: {} -> {}", key, before, now));
  };
  compare("ranks", ranks);
  compare("threads", learner.exec().threads());
  compare("microbatch", learner.microbatch());
  const auto build = member<std::string>(host, "build", info.path);
  if (build != build_description())
    lines.push_back(fmt::format("build: {} -> {}", build, build_description()));
  return lines;
}

CheckpointShard checkpoint_shard(Learner& learner) {
  const ShardState state = learner.zero().state();
  CheckpointShard shard;
  shard.table = &learner.unet().parameters();
  shard.pieces = state.pieces;
  shard.states = {{"master", state.master}, {"m", state.m}, {"v", state.v}};
  if (state.ema) shard.states.push_back({"ema", state.ema});
  return shard;
}

namespace {

/// Removes what lies under the names of trash, after the folder was synced: what is renamed but not
/// synced has its old name again when power goes, and would be a checkpoint without its files.
void empty_trash(const std::string& root) {
  std::error_code error;
  std::vector<std::filesystem::path> trash;
  for (const auto& entry : std::filesystem::directory_iterator(root, error))
    if (entry.path().filename().string().starts_with(trash_prefix)) trash.push_back(entry.path());
  if (trash.empty()) return;
  sync_path(root);
  for (const auto& path : trash) {
    std::filesystem::remove_all(path, error);
    if (error) log::warn("{}: old checkpoint not removed: {}", path.string(), error.message());
  }
}

}  // namespace

void prune_checkpoints(const std::string& root, std::int64_t keep, std::int64_t keep_every) {
  empty_trash(root);
  if (keep == 0) return;
  const auto names = list_checkpoints(root);
  std::int64_t newer = 0;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    if (!is_whole(root + "/" + *name)) continue;
    if (newer++ < std::max<std::int64_t>(keep, 2)) continue;
    if (keep_every > 0 && step_of(*name) % keep_every == 0) continue;
    std::error_code error;
    std::filesystem::rename(root + "/" + *name, fmt::format("{}/{}{}", root, trash_prefix, *name),
                            error);
    if (error) log::warn("{}/{}: old checkpoint not removed: {}", root, *name, error.message());
  }
  empty_trash(root);
}

}  // namespace strata
