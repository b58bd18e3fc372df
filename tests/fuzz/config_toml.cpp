// The training config.

#include "fuzz.hpp"
#include "train/config.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  fuzz::reads([&] {
    const TrainConfig config = parse_train_config(input, "fuzz", {});
    const std::string text = to_toml(config, false);
    if (to_toml(parse_train_config(text, "own", {}), false) != text) std::abort();
  });
}
