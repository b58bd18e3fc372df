// What a dataset is listed from: tar shards of pictures and captions, JSON lines, and lines of
// text.

#include "data/index_sources.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const char* name = input.find('\0') != input.npos ? "shard.tar"
                     : input.starts_with('{')       ? "list.jsonl"
                                                    : "list.txt";
  const std::string& path = fuzz::memory_folder().put(name, input);
  fuzz::reads([&] {
    list_candidates(path, "", [&](const Candidate& candidate) {
      const bool inside =
          candidate.bytes < 0 ||
          (candidate.offset >= 0 && candidate.bytes <= static_cast<std::int64_t>(input.size()));
      if (candidate.problem.empty() && !inside) std::abort();
    });
  });
}
