#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/buffer.hpp"
#include "core/file.hpp"
#include "core/log.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_files.hpp"

namespace strata {

using namespace checkpoint;

namespace {

CheckpointInfo info_of(const std::string& path, const Manifest& manifest, std::string_view text) {
  return {path,
          manifest.step,
          manifest.world_size,
          manifest.config_hash,
          manifest.model_hash,
          manifest.host_json,
          manifest_hash(text),
          manifest.kinds,
          {}};
}

/// From parameter id to tensor of the manifest; Error(78) unless both hold the same tensors.
std::vector<int> match_tensors(const Manifest& manifest, const ParameterTable& table,
                               const std::string& path) {
  std::map<std::string_view, int> by_name;
  for (std::size_t t = 0; t < manifest.tensors.size(); ++t)
    by_name[manifest.tensors[t].name] = static_cast<int>(t);
  std::vector<int> match;
  for (int id = 0; id < table.size(); ++id) {
    const Parameter& p = table[id];
    const auto at = by_name.find(p.name);
    if (at == by_name.end())
      fail(Exit::mismatch, "{}: has no tensor {}, which the model has", path, p.name);
    const ManifestTensor& tensor = manifest.tensors[at->second];
    if (!(tensor.shape == p.shape) || tensor.layout != p.layout)
      fail(Exit::mismatch, "{}: tensor {} is {}, the model's is {}", path, p.name,
           to_string(tensor.shape), to_string(p.shape));
    match.push_back(at->second);
    by_name.erase(at);
  }
  if (!by_name.empty())
    fail(Exit::mismatch, "{}: tensor {} is not in the model", path, by_name.begin()->first);
  return match;
}

int required_kind(const Manifest& manifest, const std::string& kind, const std::string& path,
                  Exit code) {
  const int index = manifest.kind(kind);
  if (index < 0) fail(code, "{}: holds no \"{}\" state", path, kind);
  return index;
}

void read_shard(const std::string& path, const Manifest& manifest, const std::vector<int>& match,
                const CheckpointShard& shard) {
  BlockReader reader(path, manifest);
  const auto runs = runs_of(*shard.table, shard.pieces);
  std::vector<float> staging;
  for (const CheckpointState& state : shard.states) {
    const int kind = manifest.kind(state.kind);
    for (const TensorRun& run : runs) {
      const Tensor to = state.shard.rows(run.local, run.local + run.count);
      if (to.device == host_device) {
        read_elements(reader, manifest, match[run.id], kind, run.start, run.count, to.as<float>());
        continue;
      }
      staging.resize(run.count);
      read_elements(reader, manifest, match[run.id], kind, run.start, run.count, staging.data());
      memory::copy(to.data, to.device, staging.data(), host_device, to.bytes());
    }
  }
}

std::string broadcast_text(Communicator& comm, std::string text) {
  std::int64_t length = static_cast<std::int64_t>(text.size());
  comm.broadcast(std::as_writable_bytes(std::span(&length, 1)), 0);
  text.resize(length);
  comm.broadcast(std::as_writable_bytes(std::span(text.data(), text.size())), 0);
  return text;
}

/// Empty problem: loaded. A problem: this checkpoint is damaged and another may be tried.
struct Attempt {
  CheckpointInfo info;
  std::string problem;
};

Attempt try_load(Communicator& comm, const std::string& path, const CheckpointShard& shard,
                 const CheckpointCheck& check) {
  Attempt attempt;
  // Only rank 0 looks at the folder, so that no two ranks can come to different conclusions.
  std::string text;
  if (comm.rank() == 0) {
    try {
      text = read_valid_manifest(path);
    } catch (const Error& error) {
      attempt.problem = error.what();
    }
  }
  attempt.problem = broadcast_text(comm, attempt.problem);
  if (!attempt.problem.empty()) return attempt;
  text = broadcast_text(comm, text);

  Manifest manifest;
  std::vector<int> match;
  together(comm, [&] {
    manifest = parse_manifest(text, path + "/" + manifest_name);
    attempt.info = info_of(path, manifest, text);
    if (check) check(attempt.info);
    match = match_tensors(manifest, *shard.table, path);
    for (const CheckpointState& state : shard.states)
      required_kind(manifest, state.kind, path, Exit::mismatch);
  });

  std::string problem;
  try {
    read_shard(path, manifest, match, shard);
  } catch (const Error& error) {
    problem = error.what();
  }
  const auto verdicts = comm.all_gather_strings(problem);
  for (int r = 0; r < comm.size() && attempt.problem.empty(); ++r)
    if (!verdicts[r].empty())
      attempt.problem = comm.size() == 1 ? verdicts[r] : fmt::format("rank {}: {}", r, verdicts[r]);
  return attempt;
}

}  // namespace

std::vector<std::string> list_checkpoints(const std::string& root) {
  std::vector<std::pair<std::int64_t, std::string>> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view prefix = "step-";
    if (!name.starts_with(prefix) || name.size() < prefix.size() + 8 ||
        name.size() > prefix.size() + 18 ||
        name.find_first_not_of("0123456789", prefix.size()) != std::string::npos)
      continue;
    found.emplace_back(std::stoll(name.substr(prefix.size())), name);
  }
  if (error && error != std::errc::no_such_file_or_directory)
    fail(Exit::io, "{}: {}", root, error.message());
  std::sort(found.begin(), found.end());
  std::vector<std::string> names;
  for (auto& [step, name] : found) names.push_back(std::move(name));
  return names;
}

std::optional<CheckpointInfo> load_latest_checkpoint(Communicator& comm, const std::string& root,
                                                     const CheckpointShard& shard,
                                                     const CheckpointCheck& check) {
  std::string names;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    for (const std::string& name : list_checkpoints(root)) names += name + "\n";
  });
  names = broadcast_text(comm, names);
  if (names.empty()) return std::nullopt;
  std::vector<std::string> refused;
  while (!names.empty()) {
    names.pop_back();
    const std::size_t line = names.find_last_of('\n');
    const std::string name = line == std::string::npos ? names : names.substr(line + 1);
    names.resize(names.size() - name.size());
    Attempt attempt = try_load(comm, root + "/" + name, shard, check);
    if (attempt.problem.empty()) {
      attempt.info.refused = std::move(refused);
      return attempt.info;
    }
    if (comm.rank() == 0)
      log::warn("checkpoint {} is refused: {}{}", name, attempt.problem,
                names.empty() ? "" : "; trying the one before it");
    refused.push_back(fmt::format("{}: {}", name, attempt.problem));
  }
  fail(Exit::no_checkpoint, "{}: checkpoints exist but none is valid ({})", root,
       fmt::join(refused, "; "));
}

CheckpointInfo load_checkpoint(Communicator& comm, const std::string& path,
                               const CheckpointShard& shard, const CheckpointCheck& check) {
  const Attempt attempt = try_load(comm, path, shard, check);
  if (!attempt.problem.empty())
    fail(Exit::no_checkpoint, "{}: not a valid checkpoint ({})", path, attempt.problem);
  return attempt.info;
}

// --- CheckpointReader ---------------------------------------------------------------------------

struct CheckpointReader::Impl {
  CheckpointInfo info;
  Manifest manifest;
  std::vector<CheckpointTensor> tensors;
  std::map<std::string, int> by_name;
};

namespace {

/// The newest checkpoint below root whose manifest and file sizes are right.
std::string newest_valid(const std::string& root) {
  const auto names = list_checkpoints(root);
  if (names.empty()) fail(Exit::data, "{}: no checkpoint here", root);
  std::string reasons;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const std::string path = root + "/" + *name;
    try {
      read_valid_manifest(path);
      return path;
    } catch (const Error& error) {
      log::warn("checkpoint {} is refused: {}", *name, error.what());
      reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", error.what());
    }
  }
  fail(Exit::no_checkpoint, "{}: checkpoints exist but none is valid ({})", root, reasons);
}

}  // namespace

CheckpointReader::CheckpointReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader::~CheckpointReader() = default;

CheckpointReader CheckpointReader::open(const std::string& path) {
  std::string folder = path;
  if (!file_exists(path + "/" + manifest_name))
    folder = newest_valid(directory_exists(path + "/checkpoints") ? path + "/checkpoints" : path);
  const std::string text = read_valid_manifest(folder);
  auto impl = std::make_unique<Impl>();
  impl->manifest = parse_manifest(text, folder + "/" + manifest_name);
  impl->info = info_of(folder, impl->manifest, text);
  for (const ManifestTensor& tensor : impl->manifest.tensors) {
    impl->by_name[tensor.name] = static_cast<int>(impl->tensors.size());
    impl->tensors.push_back({tensor.name, tensor.shape, tensor.layout});
  }
  return CheckpointReader(std::move(impl));
}

const CheckpointInfo& CheckpointReader::info() const {
  return impl_->info;
}
const std::vector<CheckpointTensor>& CheckpointReader::tensors() const {
  return impl_->tensors;
}

bool CheckpointReader::has(const std::string& kind) const {
  return impl_->manifest.kind(kind) >= 0;
}

void CheckpointReader::read(const std::string& name, const std::string& kind, Tensor out) const {
  const int state = required_kind(impl_->manifest, kind, impl_->info.path, Exit::data);
  const auto at = impl_->by_name.find(name);
  if (at == impl_->by_name.end()) fail(Exit::data, "{}: no tensor {}", impl_->info.path, name);
  const ManifestTensor& tensor = impl_->manifest.tensors[at->second];
  STRATA_CHECK(out.shape == tensor.shape, "{}: {} for {}", name, to_string(out.shape),
               to_string(tensor.shape));
  BlockReader reader(impl_->info.path, impl_->manifest);
  if (tensor.layout == ParamLayout::plain) {
    read_elements(reader, impl_->manifest, at->second, state, 0, out.numel(), out.as<float>());
    return;
  }
  const Buffer in_memory(DType::f32, {out.numel()});
  read_elements(reader, impl_->manifest, at->second, state, 0, out.numel(), in_memory.as<float>());
  export_parameter({tensor.name, tensor.shape, tensor.shape, tensor.layout}, out, in_memory);
}

void CheckpointReader::read_flat(const ParameterTable& table, const std::string& kind,
                                 Tensor flat) const {
  STRATA_CHECK(flat.numel() == table.numel() && flat.device == host_device);
  const int state = required_kind(impl_->manifest, kind, impl_->info.path, Exit::data);
  const auto match = match_tensors(impl_->manifest, table, impl_->info.path);
  BlockReader reader(impl_->info.path, impl_->manifest);
  std::vector<float> staging;
  for (const ParamId id : table.completion_order()) {
    const Parameter& p = table[id];
    float* to = nullptr;
    if (flat.dtype == DType::f32) {
      to = flat.as<float>() + p.offset;
    } else {
      staging.resize(p.numel());
      to = staging.data();
    }
    read_elements(reader, impl_->manifest, match[id], state, 0, p.numel(), to);
    if (flat.dtype == DType::f32) continue;
    bf16* rounded = flat.as<bf16>() + p.offset;
    for (std::int64_t i = 0; i < p.numel(); ++i) rounded[i] = to_bf16(staging[i]);
  }
}

void CheckpointReader::verify() const {
  for (const File& file : impl_->manifest.files) {
    const std::string path = impl_->info.path + "/" + file.name;
    if (sha256_file(path) != file.sha256)
      fail(Exit::data, "{}: the content does not have the SHA-256 of the manifest", path);
  }
}

}  // namespace strata
