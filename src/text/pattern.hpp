#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "text/regex.hpp"

namespace strata {

/// {"Regex": "..."} or {"String": "..."} as tokenizer.json writes patterns.
Regex make_pattern(const nlohmann::json& description, const std::string& where);

}  // namespace strata
