#pragma once
// A run that is started again and again without getting anywhere.

#include <cstdint>
#include <string>

namespace strata {

/// Counts, in a file of the run folder, how often in a row the run was started again from the same
/// step. On rank 0.
class Restarts {
 public:
  explicit Restarts(std::string path) : path_(std::move(path)) {}
  /// The run is about to go on from `step`. Error(89) when it has been started again from there
  /// `most` times already and no checkpoint came of it; most = 0: never.
  void begin(std::int64_t step, std::int64_t most) const;
  /// A checkpoint was saved, or somebody has decided how to go on.
  void forget() const;

 private:
  std::string path_;
};

}  // namespace strata
