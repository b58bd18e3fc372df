#include "core/json.hpp"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& path, int max_depth) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= max_depth) fail(Exit::data, "{}: nested more than {} deep", path, max_depth);
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(value.get_ref<const std::string&>()).second)
          fail(Exit::data, "{}: key {} occurs twice", path, value.dump());
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    fail(Exit::data, "{}: {:.200}", path, error.what());
  }
}

json read_json_file(const std::string& path, std::uint64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path);
}

}  // namespace strata
