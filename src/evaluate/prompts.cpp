#include "evaluate/prompts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "evaluate/lines.hpp"

namespace strata {

namespace {

using nlohmann::json;

constexpr std::size_t max_line_bytes = std::size_t{1} << 20;
constexpr int max_depth = 16;
constexpr std::uint64_t max_file_bytes = std::uint64_t{256} << 20;

bool is_file_id(std::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (char c : id) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '_' && c != '-') return false;
  }
  return true;
}

std::string string_field(const json& object, const char* key, const std::string& where,
                         bool required) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    if (required) fail(Exit::data, "{}: field \"{}\" is missing", where, key);
    return {};
  }
  if (!found->is_string()) fail(Exit::data, "{}: \"{}\" is not a string", where, key);
  return found->get<std::string>();
}

/// What stands in the object beside the fields that a Prompt has.
std::string other_fields(json object) {
  for (const char* key : {"id", "prompt", "upsampled", "skills"}) object.erase(key);
  return object.empty() ? "" : object.dump();
}

Prompt from_json_line(const json& object, const std::string& where) {
  Prompt prompt;
  prompt.text = string_field(object, "prompt", where, true);
  prompt.upsampled = string_field(object, "upsampled", where, false);
  const auto id = object.find("id");
  if (id == object.end()) fail(Exit::data, "{}: field \"id\" is missing", where);
  if (id->is_number_integer())
    prompt.id = fmt::format("{:05}", id->get<std::int64_t>());
  else
    prompt.id = string_field(object, "id", where, true);
  if (const auto skills = object.find("skills"); skills != object.end()) {
    if (!skills->is_array()) fail(Exit::data, "{}: \"skills\" is not a list", where);
    for (const auto& skill : *skills) {
      if (!skill.is_string()) fail(Exit::data, "{}: \"skills\" holds no string", where);
      prompt.skills.push_back(skill.get<std::string>());
    }
  }
  prompt.others = other_fields(object);
  return prompt;
}

// {"attribute": [0, 7, ...], ...}: ids are numbers here and five digits in the image file.
std::map<std::string, std::vector<std::string>> read_skills(const std::string& path) {
  std::map<std::string, std::vector<std::string>> skills_of;
  const json document = parse_json(read_file(path, max_file_bytes), path, max_depth);
  if (!document.is_object()) fail(Exit::data, "{}: not a JSON object", path);
  for (const auto& [skill, ids] : document.items()) {
    if (!ids.is_array()) fail(Exit::data, "{}: \"{}\" is not a list", path, skill);
    for (const auto& id : ids) {
      if (id.is_number_unsigned())
        skills_of[fmt::format("{:05}", id.get<std::uint64_t>())].push_back(skill);
      else if (id.is_string())
        skills_of[id.get<std::string>()].push_back(skill);
      else
        fail(Exit::data, "{}: \"{}\" holds no id", path, skill);
    }
  }
  return skills_of;
}

std::vector<Prompt> from_genai_bench(const json& document, const std::string& path) {
  const auto slash = path.find_last_of('/');
  const std::string skills_path =
      (slash == std::string::npos ? "" : path.substr(0, slash + 1)) + "genai_skills.json";
  std::map<std::string, std::vector<std::string>> skills_of;
  if (file_exists(skills_path)) skills_of = read_skills(skills_path);
  std::vector<Prompt> prompts;
  for (const auto& [id, entry] : document.items()) {
    const std::string where = fmt::format("{}: \"{}\"", path, id);
    if (!entry.is_object()) fail(Exit::data, "{}: not a JSON object", where);
    Prompt prompt;
    prompt.id = id;
    prompt.text = string_field(entry, "prompt", where, true);
    prompt.upsampled = string_field(entry, "upsampled", where, false);
    prompt.others = other_fields(entry);
    if (auto found = skills_of.find(id); found != skills_of.end()) prompt.skills = found->second;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<Prompt> from_lines(const std::string& content, const std::string& path, bool is_json) {
  std::vector<Prompt> prompts;
  for_each_line(content, path, max_line_bytes, [&](std::int64_t number, std::string_view line) {
    const std::string where = fmt::format("{}:{}", path, number);
    if (line.empty()) fail(Exit::data, "{}: an empty line", where);
    Prompt prompt;
    if (is_json) {
      const json object = parse_json(line, where, max_depth);
      if (!object.is_object()) fail(Exit::data, "{}: not a JSON object", where);
      prompt = from_json_line(object, where);
    } else {
      prompt.text = std::string(line);
      prompt.id = fmt::format("{:05}", number - 1);
    }
    prompts.push_back(std::move(prompt));
  });
  return prompts;
}

// Whether the file is one JSON object and not lines of them: its first line does not end an object,
// or it is the only line and holds objects by id.
bool is_whole_document(std::string_view content, const std::string& path) {
  constexpr std::string_view blank = " \t\r\n";
  if (!content.starts_with('{')) return false;
  std::string_view line = content.substr(0, content.find('\n'));
  const bool only_line = content.find_first_not_of(blank, line.size()) == std::string_view::npos;
  line = line.substr(0, line.find_last_not_of(blank) + 1);
  if (!line.ends_with('}')) return true;
  if (!only_line) return false;
  const json document = parse_json(line, path, max_depth);
  return std::all_of(document.begin(), document.end(),
                     [](const json& entry) { return entry.is_object(); });
}

void check_unique(const std::vector<Prompt>& prompts, const std::string& path) {
  std::set<std::string_view> seen;
  for (const auto& prompt : prompts)
    if (!seen.insert(prompt.id).second)
      fail(Exit::data, "{}: the id \"{}\" stands twice", path, printable(prompt.id));
}

}  // namespace

PromptSet read_prompts(const std::string& path) {
  const std::string content = read_file(path, max_file_bytes);
  PromptSet set;
  set.sha256 = sha256_hex(content);
  if (is_whole_document(content, path)) {
    check_utf8(content, path);
    set.prompts = from_genai_bench(parse_json(content, path, max_depth), path);
  } else {
    set.prompts = from_lines(content, path, !content.empty() && content.front() == '{');
  }
  if (set.prompts.empty()) fail(Exit::data, "{}: holds no prompt", path);
  check_unique(set.prompts, path);
  for (std::size_t row = 0; row < set.prompts.size(); ++row)
    set.prompts[row].row = static_cast<std::int64_t>(row);
  return set;
}

const std::string& text_of(const Prompt& prompt, TextField field) {
  if (field == TextField::prompt) return prompt.text;
  if (prompt.upsampled.empty())
    fail(Exit::data, "prompt \"{}\" has no upsampled text", printable(prompt.id));
  return prompt.upsampled;
}

std::string image_file_name(std::string_view id, int k) {
  std::string name = is_file_id(id) ? std::string(id) : sha256_hex(id);
  if (k > 0) name += fmt::format("-{}", k);
  return name + ".png";
}

std::vector<std::string> image_file_names(const PromptSet& set, int images_per_prompt) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const auto& prompt : set.prompts)
    for (int k = 0; k < images_per_prompt; ++k) {
      names.push_back(image_file_name(prompt.id, k));
      if (!seen.insert(names.back()).second)
        fail(Exit::data, "image {} of prompt \"{}\" would be named {} like another one", k,
             printable(prompt.id), names.back());
    }
  return names;
}

}  // namespace strata
