// The training config, and behind a line of four dashes what --set may say.

#include "fuzz.hpp"
#include "train/config.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  fuzz::reads([&] {
    const auto [text_of, set] = fuzz::parts_of<2>(input);
    const std::vector<std::string> overrides(set.empty() ? 0 : 1, std::string(set));
    const TrainConfig config = parse_train_config(text_of, "fuzz", overrides);
    const std::string text = to_toml(config, false);
    if (to_toml(parse_train_config(text, "own", {}), false) != text) std::abort();
  });
}
