// tokenizer.json: what it describes must also survive a text.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/json.hpp"
#include "fuzz.hpp"
#include "text/json_tokenizer.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  fuzz::reads([&] {
    const auto backend = make_json_tokenizer(parse_json(input, "fuzz"), "fuzz");
    std::vector<std::int32_t> ids;
    backend->encode("A red  circle <s> \xc3\xa9\xe4\xb8\xad\xf0\x9f\x8e\xa8, 12's.\n", ids);
    ids.resize(std::min<std::size_t>(ids.size(), 1000));  // more than any prompt is generated with
    backend->decode(ids, false);
    backend->surround();
  });
}
