// index.jsonl.

#include "data/index.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const std::string& path = fuzz::memory_folder().put("input", input);
  fuzz::reads([&] {
    const Index index = Index::load(path);
    for (std::int64_t i = 0; i < index.size(); ++i)
      if (index[i].captions.empty()) std::abort();
  });
}
