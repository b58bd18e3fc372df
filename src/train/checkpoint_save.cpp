#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_files.hpp"

namespace strata {

using namespace checkpoint;

namespace {

constexpr std::string_view temporary_prefix = ".tmp-";

/// What one rank tells rank 0 about its file.
std::string report_of(const File& file, const std::vector<ShardPiece>& pieces) {
  nlohmann::json report{{"bytes", file.bytes},
                        {"sha256", file.sha256},
                        {"crc32c", file.crc32c},
                        {"pieces", nlohmann::json::array()}};
  for (const ShardPiece& piece : pieces)
    report["pieces"].push_back({piece.flat.begin, piece.flat.end, piece.local});
  return report.dump();
}

/// Adds a rank's file and where every tensor lies in it.
void add_report(Manifest& manifest, const ParameterTable& table, const std::string& text) {
  const auto report = nlohmann::json::parse(text);
  const int rank = static_cast<int>(manifest.files.size());
  manifest.files.push_back(
      {shard_name(rank, manifest.world_size), report["bytes"].get<std::int64_t>(),
       report["sha256"].get<std::string>(), report["crc32c"].get<std::vector<std::uint32_t>>()});
  std::vector<ShardPiece> pieces;
  for (const auto& piece : report["pieces"])
    pieces.push_back({{piece[0].get<std::int64_t>(), piece[1].get<std::int64_t>()},
                      piece[2].get<std::int64_t>()});
  const auto kinds = static_cast<std::int64_t>(manifest.kinds.size());
  const std::int64_t state_bytes =
      manifest.files.back().bytes / kinds;  // one state after the other
  for (const TensorRun& run : runs_of(table, pieces))
    for (std::int64_t kind = 0; kind < kinds; ++kind)
      manifest.tensors[run.id].pieces[kind].push_back(
          {rank, kind * state_bytes + run.local * static_cast<std::int64_t>(sizeof(float)),
           run.start, run.count});
}

Manifest make_manifest(const CheckpointShard& shard, std::int64_t step,
                       const std::vector<std::string>& reports) {
  Manifest manifest;
  manifest.step = step;
  manifest.world_size = static_cast<int>(reports.size());
  manifest.model_hash = model_hash(*shard.table);
  for (const CheckpointState& state : shard.states) manifest.kinds.push_back(state.kind);
  for (int id = 0; id < shard.table->size(); ++id) {
    const Parameter& p = (*shard.table)[id];
    manifest.tensors.push_back(
        {p.name, p.shape, p.layout, std::vector<std::vector<Piece>>(manifest.kinds.size())});
  }
  for (const std::string& report : reports) add_report(manifest, *shard.table, report);
  for (ManifestTensor& tensor : manifest.tensors)
    for (auto& pieces : tensor.pieces)
      std::sort(pieces.begin(), pieces.end(),
                [](const Piece& a, const Piece& b) { return a.start < b.start; });
  return manifest;
}

/// Removes what saves that did not end left behind, and makes the folder of this one.
void prepare(const std::string& root, const std::string& temporary) {
  const bool is_new = !directory_exists(root);
  make_directories(root);
  if (is_new) sync_path(parent_of(root));
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(root, ignored))
    if (entry.path().filename().string().starts_with(temporary_prefix))
      std::filesystem::remove_all(entry.path(), ignored);
  if (::mkdir(temporary.c_str(), 0777) != 0) fail_errno(temporary, "mkdir", true);
}

/// The folder gets its final name in one step. One of the same step that is there already (it was
/// damaged, or the run went back past it) changes places with it and is then removed.
void publish(const std::string& temporary, const std::string& final_path, const std::string& root) {
  sync_path(temporary);
  if (!directory_exists(final_path)) {
    if (::rename(temporary.c_str(), final_path.c_str()) != 0) fail_errno(final_path, "rename");
  } else if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final_path.c_str(),
                         RENAME_EXCHANGE) != 0) {
    // Not every file system exchanges; older checkpoints stay through the moment in between.
    if (errno != EINVAL && errno != ENOSYS) fail_errno(final_path, "renameat2");
    const std::string aside = temporary + ".old";
    if (::rename(final_path.c_str(), aside.c_str()) != 0) fail_errno(final_path, "rename");
    if (::rename(temporary.c_str(), final_path.c_str()) != 0) fail_errno(final_path, "rename");
  }
  sync_path(root);
  std::error_code ignored;
  std::filesystem::remove_all(temporary, ignored);
  std::filesystem::remove_all(temporary + ".old", ignored);
}

void check_shard(const CheckpointShard& shard) {
  STRATA_CHECK(shard.table && !shard.states.empty());
  std::int64_t local = 0;
  for (const ShardPiece& piece : shard.pieces) local += piece.flat.size();
  for (const CheckpointState& state : shard.states)
    STRATA_CHECK(state.shard.dtype == DType::f32 && state.shard.numel() == local,
                 "state {}: {} elements for pieces of {}", state.kind, state.shard.numel(), local);
}

}  // namespace

std::string model_hash(const ParameterTable& table) {
  std::string text;
  for (int id = 0; id < table.size(); ++id)
    text += fmt::format("{} {} {}\n", table[id].name, to_string(table[id].shape),
                        static_cast<int>(table[id].layout));
  return sha256_hex(text);
}

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step-{:08d}", step);
}

CheckpointInfo save_checkpoint(Communicator& comm, const std::string& root, std::int64_t step,
                               const CheckpointShard& shard, const std::string& config_hash,
                               const std::string& host_json, const CheckpointOwner& owner) {
  Snapshot snapshot(shard.tensors());
  return save_checkpoint(comm, root, step, shard, config_hash, host_json, owner, snapshot);
}

CheckpointInfo save_checkpoint(Communicator& comm, const std::string& root, std::int64_t step,
                               const CheckpointShard& shard, const std::string& config_hash,
                               const std::string& host_json, const CheckpointOwner& owner,
                               Snapshot& snapshot) {
  check_shard(shard);
  CheckpointInfo info{root + "/" + checkpoint_name(step), step,     comm.size(), config_hash,
                      model_hash(*shard.table),           host_json};
  const std::string temporary =
      fmt::format("{}/{}{}.e{}", root, temporary_prefix, checkpoint_name(step), owner.epoch);
  const bool first = comm.rank() == 0;
  try {
    together(comm, [&] {
      if (!first) return;
      owner.confirm();
      prepare(root, temporary);
    });
    File file;
    together(comm, [&] {
      file = write_shard(temporary, shard_name(comm.rank(), comm.size()), snapshot);
    });
    const auto reports = comm.all_gather_strings(report_of(file, shard.pieces));
    together(comm, [&] {
      snapshot.check();
      if (!first) return;
      Manifest manifest = make_manifest(shard, step, reports);
      manifest.config_hash = config_hash;
      manifest.host_json = host_json;
      check_tiles(manifest);
      const std::string text = to_text(manifest);
      info.manifest_hash = manifest_hash(text);
      write_new_file(temporary + "/" + manifest_name, text);
      owner.confirm();
      publish(temporary, info.path, root);
    });
  } catch (const Error&) {
    std::error_code ignored;
    if (first) std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  for (const CheckpointState& state : shard.states) info.kinds.push_back(state.kind);
  info.manifest_hash = comm.all_gather_strings(info.manifest_hash)[0];
  return info;
}

}  // namespace strata
