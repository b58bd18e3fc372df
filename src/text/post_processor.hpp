#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace strata {

/// The special tokens around a single text.
struct Surround {
  std::vector<std::int32_t> before, after;
};

/// TemplateProcessing, ByteLevel (offsets only: nothing for ids), RobertaProcessing,
/// BertProcessing, Sequence; null adds nothing. Error(65) names any other type.
Surround make_post_processor(const nlohmann::json& description, const std::string& where);

}  // namespace strata
