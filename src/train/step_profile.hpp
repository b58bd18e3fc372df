#pragma once
// Where the time of training steps goes: spans (core/spans.hpp) summed up by kind of op and by
// block of the network.

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/spans.hpp"

namespace strata {

/// What the machine does at most, a rank.
struct MachinePeaks {
  double flops = 0, bytes = 0;  // a second
};

/// A row of the profile: of one step of one rank.
struct ProfileRow {
  std::string name;
  std::array<double, 3> seconds{};  // forward, backward, elsewhere
  double flops = 0, bytes = 0;
  /// Seconds that the machine would need at its peaks, op by op the longer of arithmetic and
  /// memory.
  double least_seconds = 0, least_for_memory = 0;
  double calls = 0;

  double total() const { return seconds[0] + seconds[1] + seconds[2]; }
  /// Of the peak that bounds it; more than 1 where its tensors come from a cache.
  double share_of_peak() const { return total() > 0 ? least_seconds / total() : 0; }
  bool is_bound_by_memory() const { return 2 * least_for_memory > least_seconds; }
  ProfileRow& operator+=(const ProfileRow& other);
};

/// Bytes a rank holds, by kind, at most.
struct MemoryPart {
  std::string name;
  double bytes;
};

struct StepProfile {
  int ranks = 1, threads = 1;
  std::string dtype, device, what;        // what: whose steps these are
  std::int64_t steps = 0, images = 0;     // images: of a step, all ranks
  double seconds = 0;                     // of a step
  double seconds_unwatched = 0;           // of one before, without spans
  MachinePeaks peaks;                     // of a rank
  std::vector<ProfileRow> kinds, blocks;  // in the order of a step; their seconds add up to a step
  std::vector<ProfileRow> behind;         // other threads, at the same time
  std::vector<MemoryPart> memory;

  double flops() const;  // of a step of one rank
};

/// `steps` steps out of what was kept; seconds, kinds, blocks and behind of the result.
StepProfile profile_of(const std::vector<spans::Lane>& lanes, std::int64_t steps,
                       const MachinePeaks& peaks);
/// The mean of several ranks' profiles; memory is the largest.
StepProfile mean_of(const std::vector<StepProfile>& profiles);

std::string to_text(const StepProfile& profile);
nlohmann::json to_json(const StepProfile& profile);
/// The inverse, between ranks.
StepProfile profile_from_json(const nlohmann::json& json);

}  // namespace strata
