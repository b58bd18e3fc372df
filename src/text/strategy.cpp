#include "text/strategy.hpp"

#include <algorithm>
#include <charconv>

#include "core/error.hpp"

namespace strata {

Strategy Strategy::parse(const std::string& text) {
  if (text == "last") return {Kind::layer, -1};
  if (text == "avg") return {Kind::average, 0};
  if (text == "norm_avg") return {Kind::norm_average, 0};
  if (text.starts_with("layer:")) {
    Strategy strategy;
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + 6, end, strategy.layer);
    if (error == std::errc() && at == end) return strategy;
  }
  fail(Exit::usage, "strategy '{}': last, layer:K, avg or norm_avg", text);
}

std::int64_t Strategy::state_of(std::int64_t layers) const {
  const std::int64_t state = layer < 0 ? layer + layers + 1 : layer;
  if (state < 0 || state > layers)
    fail(Exit::usage, "strategy layer:{}: the model has hidden states 0 to {}", layer, layers);
  return state;
}

std::vector<std::string> parse_strategies(const std::string& list) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    names.push_back(list.substr(at, end - at));
    Strategy::parse(names.back());
    if (std::count(names.begin(), names.end(), names.back()) > 1)
      fail(Exit::usage, "strategy '{}' is asked for twice", names.back());
    at = end + 1;
  }
  return names;
}

std::string folder_of_strategy(std::string strategy) {
  std::replace(strategy.begin(), strategy.end(), ':', '_');
  return strategy;
}

}  // namespace strata
