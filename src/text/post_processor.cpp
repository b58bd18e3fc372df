#include "text/post_processor.hpp"

#include "text/fields.hpp"

namespace strata {

namespace {

/// {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id":
/// "A"}}], "special_tokens": {"<s>": {"ids": [1]}}}
Surround template_processing(const nlohmann::json& description, const std::string& where) {
  const auto& special_tokens = member(description, "special_tokens", where);
  Surround surround;
  bool text_seen = false;
  for (const auto& piece : array_member(description, "single", where)) {
    if (has_value(piece, "Sequence")) {
      const std::string id = string_member(piece["Sequence"], "id", where);
      if (id != "A" || text_seen)
        fail(Exit::data, "{}: a template for one text must hold $A once", where);
      text_seen = true;
      continue;
    }
    const std::string name = string_member(member(piece, "SpecialToken", where), "id", where);
    const auto& ids = array_member(member(special_tokens, name.c_str(), where), "ids", where);
    auto& side = text_seen ? surround.after : surround.before;
    for (const auto& id : ids) side.push_back(token_id(id, where));
  }
  if (!text_seen) fail(Exit::data, "{}: a template for one text must hold $A once", where);
  return surround;
}

std::int32_t id_of_pair(const nlohmann::json& description, const char* key,
                        const std::string& where) {
  const auto& pair = array_member(description, key, where);
  if (pair.size() != 2) fail(Exit::data, "{}: \"{}\" is not [token, id]", where, key);
  return token_id(pair[1], where);
}

}  // namespace

Surround make_post_processor(const nlohmann::json& description, const std::string& where) {
  if (description.is_null()) return {};
  const std::string type = string_member(description, "type", where);
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return template_processing(description, where);
  if (type == "RobertaProcessing" || type == "BertProcessing")
    return {{id_of_pair(description, "cls", where)}, {id_of_pair(description, "sep", where)}};
  if (type == "Sequence") {
    Surround all;
    for (const auto& step : array_member(description, "processors", where)) {
      const Surround outer = make_post_processor(step, where);
      all.before.insert(all.before.begin(), outer.before.begin(), outer.before.end());
      all.after.insert(all.after.end(), outer.after.begin(), outer.after.end());
    }
    return all;
  }
  fail(Exit::data, "{}: post-processor type {:.60} is not supported", where, type);
}

}  // namespace strata
