// manifest.json of a cache.

#include "data/cache_format.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  fuzz::reads([&] {
    const CacheManifest manifest = CacheManifest::parse(input, "fuzz");
    const std::string text = manifest.to_json();
    if (CacheManifest::parse(text, "own").to_json() != text) std::abort();
  });
}
