// Tar shards of pictures and captions.

#include "data/index_sources.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string path = fuzz::memory_folder().put("shard.tar", input);
  fuzz::reads([&] {
    list_candidates(path, "", [&](const Candidate& candidate) {
      const bool inside =
          candidate.bytes < 0 ||
          (candidate.offset >= 0 && candidate.bytes <= static_cast<std::int64_t>(input.size()));
      if (candidate.problem.empty() && !inside) std::abort();
    });
  });
}
