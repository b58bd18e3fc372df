#pragma once
// Checkpoints: one plain little-endian file a rank and a MANIFEST.json that knows every tensor by
// its name, so that any number of ranks can load what any other number saved.
//
//   checkpoints/step-00001000/
//     shard-00000-of-00004.bin   this rank's part: [master | m | v | ema], f32, without gaps
//     MANIFEST.json              step, hashes, tensors -> (file, byte offset, start, count),
//                                CRC-32C a block and SHA-256 a file; the last line is the SHA-256
//                                of the rest
//
// A folder appears under its final name only when everything in it is on disk: files, manifest and
// folder are synced in `.tmp-step-00001000.e3` (3: the owner's epoch), which is then renamed, and
// the parent is synced.
// Loading never starts silently anew: see `load_latest_checkpoint`.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dist/communicator.hpp"
#include "dist/sharding.hpp"
#include "model/parameters.hpp"

namespace strata {

class Snapshot;

/// One kind of f32 state of all parameters ("master", "m", "v", "ema"): this rank's part.
struct CheckpointState {
  std::string kind;
  Tensor shard;  // (local_numel) f32
};

/// What a rank saves, or where it wants loaded states to go.
struct CheckpointShard {
  const ParameterTable* table = nullptr;
  std::vector<ShardPiece> pieces;  // of the flat buffer of `table`, this rank's
  std::vector<CheckpointState> states;

  std::vector<Tensor> tensors() const {
    std::vector<Tensor> tensors;
    for (const CheckpointState& state : states) tensors.push_back(state.shard);
    return tensors;
  }
};

struct CheckpointInfo {
  std::string path;  // the folder
  std::int64_t step = 0;
  int world_size = 0;         // ranks that saved it
  std::string config_hash;    // as given to save
  std::string model_hash;     // `model_hash(table)`
  std::string host_json;      // a JSON object: everything else that influences the next step
  std::string manifest_hash;  // SHA-256, identifies the checkpoint (the images manifest names it)
  std::vector<std::string> kinds;
  std::vector<std::string> refused;  // "name: why" of newer ones that load_latest_checkpoint passed
};

/// SHA-256 over names, shapes and layouts in the table's order of definition.
std::string model_hash(const ParameterTable& table);

/// "step-00001000"
std::string checkpoint_name(std::int64_t step);

/// Who saves. confirm: called on rank 0 before anything is touched and again just before the
/// checkpoint gets its name; throws when another job has taken the run over.
struct CheckpointOwner {
  std::int64_t epoch = 0;  // of RunLock, the same on every rank
  std::function<void()> confirm = [] {};
};

/// Collective. root: the `checkpoints` folder (created). host_json must be the same on every rank
/// (rank 0's is written). Returns when the checkpoint is published; on any rank's failure all ranks
/// throw the same Error (73/74/77), nothing is published and older checkpoints are untouched. An
/// existing checkpoint of the same step is replaced.
CheckpointInfo save_checkpoint(Communicator& comm, const std::string& root, std::int64_t step,
                               const CheckpointShard& shard, const std::string& config_hash,
                               const std::string& host_json, const CheckpointOwner& owner = {});
/// The same from a snapshot of shard.states, which may change meanwhile (`CheckpointSaver`).
CheckpointInfo save_checkpoint(Communicator& comm, const std::string& root, std::int64_t step,
                               const CheckpointShard& shard, const std::string& config_hash,
                               const std::string& host_json, const CheckpointOwner& owner,
                               Snapshot& snapshot);

/// Called on every rank with a valid manifest before anything is read; throws Error(78) to refuse.
using CheckpointCheck = std::function<void(const CheckpointInfo&)>;

/// Collective. Fills `shard.states` from the newest valid checkpoint below root, whatever the
/// number of ranks that saved it. nullopt: there never was one. A damaged one is named in a warning
/// and the next older one is tried; Error(66) naming each and why when none is left. A different
/// model, a missing kind or a refusal by `check` is Error(78).
std::optional<CheckpointInfo> load_latest_checkpoint(Communicator& comm, const std::string& root,
                                                     const CheckpointShard& shard,
                                                     const CheckpointCheck& check = {});

/// Collective. Exactly this folder; Error(66) when it is damaged or not there.
CheckpointInfo load_checkpoint(Communicator& comm, const std::string& path,
                               const CheckpointShard& shard, const CheckpointCheck& check = {});

/// Folder names `step-NNNNNNNN` below root, oldest first; empty when root does not exist.
std::vector<std::string> list_checkpoints(const std::string& root);

struct CheckpointTensor {
  std::string name;
  Shape shape;  // as in the safetensors file
  ParamLayout layout = ParamLayout::plain;
};

/// Reads tensors by name on one rank, without the model that saved them: `convert`, `sample`,
/// `inspect`. Not collective.
class CheckpointReader {
 public:
  /// path: a checkpoint folder, or a `checkpoints` or run folder, of which the newest valid one is
  /// taken. Error(65) when there is none or this one is damaged, 66 when none of several is valid.
  static CheckpointReader open(const std::string& path);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;

  const CheckpointInfo& info() const;
  const std::vector<CheckpointTensor>& tensors() const;  // in the model's order
  bool has(const std::string& kind) const;
  /// out: f32, shaped as in the safetensors file. Checks the CRC of every block read; Error(65).
  void read(const std::string& name, const std::string& kind, Tensor out) const;
  /// flat (P), f32 or bf16, in the table's order and memory layout; exact set and shapes or
  /// Error(78).
  void read_flat(const ParameterTable& table, const std::string& kind, Tensor flat) const;
  /// SHA-256 of every file; Error(65) naming the file.
  void verify() const;

 private:
  struct Impl;
  explicit CheckpointReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
