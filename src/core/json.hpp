#pragma once
// JSON from outside, bounded. Include <nlohmann/json.hpp> where the value is looked into.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace strata {

/// Parses one document. Error(65) naming `path` on a syntax error, invalid UTF-8, a key that occurs
/// twice in one object, or more than max_depth nested arrays and objects.
nlohmann::json parse_json(std::string_view text, const std::string& path, int max_depth = 64);
/// The same for a whole file of at most max_bytes.
nlohmann::json read_json_file(const std::string& path,
                              std::uint64_t max_bytes = std::uint64_t{256} << 20);

}  // namespace strata
