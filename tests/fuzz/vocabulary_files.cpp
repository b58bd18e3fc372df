// vocab.json, merges.txt and tokenizer_config.json, in this order, with lines of four dashes
// between.

#include "fuzz.hpp"
#include "text/tokenizer.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const auto [vocabulary, merges, config] = fuzz::parts_of<3>(input);
  const auto& folder = fuzz::memory_folder();
  folder.put("vocab.json", vocabulary);
  folder.put("merges.txt", merges);
  folder.put("tokenizer_config.json", config);
  fuzz::reads([&] {
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    const auto ids = tokenizer.encode("A red  circle \xc3\xa9\xe4\xb8\xad, 12's.");
    tokenizer.decode(ids, false);
  });
}
