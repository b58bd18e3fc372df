#pragma once
// tests/golden/text/, made by tools/makers/goldens_text.py.

#include <nlohmann/json.hpp>
#include <string>

#include "core/json.hpp"
#include "tests/test_files.hpp"

namespace strata {

inline std::string golden_path(const std::string& name) {
  return test_files() + "/tests/golden/text/" + name;
}

inline nlohmann::json golden_json(const std::string& name) {
  return read_json_file(golden_path(name));
}

}  // namespace strata
