#pragma once
// Which of cuDNN's engines was the fastest for a graph, kept on disk: a resumed run, and every rank
// on the same kind of device, repeats the choice. Knows no vendor's headers.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

namespace strata::cuda {

/// An engine as cuDNN makes it again: its number and its knobs' values by number.
struct EngineChoice {
  std::int64_t engine = 0;
  std::map<std::int64_t, std::int64_t> knobs;
  bool operator==(const EngineChoice&) const = default;
};

class PlanCache {
 public:
  /// Below `folder`, apart for each device and version of cuDNN.
  PlanCache(const std::string& folder, const std::string& device, std::int64_t version);

  /// What was chosen for the graph whose words these are. A file that is not whole, or is another
  /// graph's, is as good as none, with a warning.
  std::optional<EngineChoice> find(std::span<const std::int64_t> words);
  /// Publishes a choice, unless another process has: the one that holds is returned. Where nothing
  /// can be written it holds in memory, with a warning.
  EngineChoice add(std::span<const std::int64_t> words, const EngineChoice& choice);

  std::string path_of(std::span<const std::int64_t> words) const;

 private:
  std::optional<EngineChoice> read(const std::string& path, std::span<const std::int64_t> words);

  std::string folder_;
  std::map<std::string, EngineChoice> known_;
  bool warned_ = false;  // that nothing can be written
};

/// $XDG_CACHE_HOME/strata/cudnn, else ~/.cache/strata/cudnn.
std::string default_plan_folder();

}  // namespace strata::cuda
