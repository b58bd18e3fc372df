// vocab.json, merges.txt and tokenizer_config.json, then what need not be there
// (special_tokens_map.json, added_tokens.json, config.json), in this order, with lines of four
// dashes between.

#include "fuzz.hpp"
#include "text/tokenizer.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  const auto parts = fuzz::parts_of<6>(input);
  auto& folder = fuzz::memory_folder();
  folder.put("vocab.json", parts[0]);
  folder.put("merges.txt", parts[1]);
  folder.put("tokenizer_config.json", parts[2]);
  folder.put_if_any("special_tokens_map.json", parts[3]);
  folder.put_if_any("added_tokens.json", parts[4]);
  folder.put_if_any("config.json", parts[5]);
  fuzz::reads([&] {
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    const auto ids = tokenizer.encode("A red  circle \xc3\xa9\xe4\xb8\xad, 12's.");
    tokenizer.decode(ids, false);
  });
}
