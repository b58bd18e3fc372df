#pragma once
// The run folder: what lies where, and the note left behind before any abort.

#include <cstdint>
#include <string>

#include "core/error.hpp"

namespace strata {

struct RunFolder {
  std::string dir;

  std::string config() const { return dir + "/config.toml"; }
  std::string provenance() const { return dir + "/provenance.json"; }
  std::string metrics() const { return dir + "/metrics.jsonl"; }
  std::string validation() const { return dir + "/validation.jsonl"; }
  std::string exit_note() const { return dir + "/exit.json"; }
  std::string tensorboard() const { return dir + "/tensorboard"; }
  std::string logs() const { return dir + "/log"; }
  std::string checkpoints() const { return dir + "/checkpoints"; }
  std::string dump(std::int64_t step, int rank) const;  // dump/step-K.rank-R.safetensors
  std::string samples(std::int64_t step) const;         // samples/step-00001000
  std::string restarts() const { return dir + "/restarts.json"; }
  std::string hang_log() const { return logs() + "/hang.log"; }
  std::string log(int rank) const;  // log/rank-00000.log
  /// Removes everything that a run has written here. Error(74).
  void clear() const;
};

/// Whether a batch script should start the job again after this code: 74, 75 and 86.
bool wants_restart(Exit code);

/// Writes exit.json {code, rank, cause, restart}: batch scripts decide by it, because launchers
/// turn exit codes into their own. `restart` is wants_restart(code). Never throws: it is called on
/// the way out; does nothing when `run.dir` does not exist.
void write_exit_note(const RunFolder& run, Exit code, int rank, const std::string& cause) noexcept;

}  // namespace strata
