#include "text/vocabulary_files.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/file.hpp"
#include "core/json.hpp"
#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

using nlohmann::json;

namespace {

constexpr const char* clip_pattern =
    R"(<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* roles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                 "pad_token", "cls_token", "mask_token"};

enum class Family { clip, qwen2, gpt2 };

json read_if_there(const std::string& path) {
  return file_exists(path) ? read_json_file(path) : json::object();
}

Family family_of(const std::string& folder, const json& config, const json& vocabulary) {
  std::string path = folder + "/tokenizer_config.json", key = "tokenizer_class";
  std::string name = has_value(config, key.c_str()) ? string_member(config, key.c_str(), path) : "";
  if (name.empty()) {
    path = folder + "/config.json";
    key = "model_type";
    const json model = read_if_there(path);
    if (has_value(model, key.c_str())) name = string_member(model, key.c_str(), path);
  }
  if (name.empty() && vocabulary.contains("<|startoftext|>")) return Family::clip;
  if (name.empty())
    fail(Exit::data,
         "{}: vocab.json and merges.txt need a tokenizer_class in "
         "tokenizer_config.json (CLIPTokenizer, Qwen2Tokenizer or GPT2Tokenizer)",
         folder);
  if (name == "CLIPTokenizer" || name == "CLIPTokenizerFast" || name == "clip" ||
      name == "clip_text_model")
    return Family::clip;
  if (name == "Qwen2Tokenizer" || name == "Qwen2TokenizerFast" || name == "qwen2")
    return Family::qwen2;
  if (name == "GPT2Tokenizer" || name == "GPT2TokenizerFast" || name == "gpt2") return Family::gpt2;
  fail(Exit::data, "{}: {} {:.60} is not supported with vocab.json and merges.txt", path, key,
       name);
}

json byte_level(bool use_regex, bool add_prefix_space) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", use_regex}};
}

json split(const char* pattern, const char* behaviour, bool invert) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", behaviour},
          {"invert", invert}};
}

json sequence(const char* key, std::vector<json> steps) {
  return {{"type", "Sequence"}, {key, std::move(steps)}};
}

json read_merges(const std::string& path) {
  const std::string text = read_file(path, std::uint64_t{256} << 20);
  if (const std::size_t bad = find_invalid_utf8(text); bad != std::string::npos)
    fail(Exit::data, "{}: invalid UTF-8 at byte {}", path, bad);
  std::vector<json> merges;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty() && !line.starts_with("#version")) merges.emplace_back(std::move(line));
    at = end + 1;
  }
  return merges;
}

/// The added tokens in the order in which `transformers` adds them: an id is the vocabulary's or
/// the next free one. A token that comes again takes its later flags.
class SpecialTokens {
 public:
  SpecialTokens(const json& vocabulary, std::string where)
      : vocabulary_(vocabulary), where_(std::move(where)), next_(vocabulary.size()) {}

  /// token: a text or an object with flags.
  void add(const json& token, bool special) {
    json made = token.is_object() ? token : json{{"content", token}, {"normalized", !special}};
    const std::string content = string_member(made, "content", where_);
    made["special"] = special;
    made.erase("__type");
    if (const auto it = places_.find(content); it != places_.end()) {
      made["id"] = tokens_[it->second]["id"];
      tokens_[it->second] = std::move(made);
      return;
    }
    const auto known = vocabulary_.find(content);
    made["id"] = known == vocabulary_.end() ? json(next_) : *known;
    next_ = std::max<std::uint64_t>(next_, token_id(made["id"], where_) + 1);
    places_[content] = tokens_.size();
    tokens_.push_back(std::move(made));
  }

  json take() { return std::move(tokens_); }

 private:
  const json& vocabulary_;
  std::string where_;
  std::uint64_t next_;
  std::vector<json> tokens_;
  std::map<std::string, std::size_t> places_;
};

std::string content_of(const json& token, const std::string& where) {
  if (token.is_string()) return token.get<std::string>();
  return string_member(token, "content", where);
}

/// The text of each role: what the class presets, then tokenizer_config.json, then (where that
/// lists no added tokens) special_tokens_map.json.
json special_roles(const std::string& folder, const json& config, Family family) {
  json tokens = json::object();
  const char* end = "<|endoftext|>";
  tokens["eos_token"] = tokens["unk_token"] = end;
  if (family != Family::gpt2) tokens["pad_token"] = end;
  if (family == Family::clip) tokens["bos_token"] = "<|startoftext|>";
  if (family == Family::gpt2) tokens["bos_token"] = end;
  const auto take = [&](const json& source) {
    for (const char* role : roles)
      if (source.is_object() && source.contains(role)) tokens[role] = source[role];
    for (const char* more : {"additional_special_tokens", "extra_special_tokens"})
      if (source.is_object() && has_value(source, more) && source[more].is_array())
        tokens["more"] = source[more];
  };
  take(config);
  if (!has_value(config, "added_tokens_decoder"))
    take(read_if_there(folder + "/special_tokens_map.json"));
  return tokens;
}

json added_tokens(const std::string& folder, const json& config, const json& vocabulary,
                  const json& special, Family family) {
  const std::string where = folder + "/tokenizer_config.json";
  SpecialTokens tokens(vocabulary, where);
  std::map<std::int32_t, std::pair<json, bool>> by_id;
  if (has_value(config, "added_tokens_decoder")) {
    for (const auto& [id, token] : member(config, "added_tokens_decoder", where).items())
      by_id[token_id(json::parse(id, nullptr, false), where)] = {
          token, bool_member(token, "special", false, where)};
  } else {
    const auto is_special = [&](const std::string& text) {
      return std::any_of(special.begin(), special.end(), [&](const json& token) {
        return !token.is_null() && !token.is_array() && content_of(token, where) == text;
      });
    };
    const std::string path = folder + "/added_tokens.json";
    const json listed = read_if_there(path);
    for (const auto& [text, id] : listed.items())
      by_id[token_id(id, path)] = {text, is_special(text)};
  }
  for (const auto& [id, token] : by_id) tokens.add(token.first, token.second);
  for (const char* role : roles)
    if (has_value(special, role))
      tokens.add(family == Family::qwen2 ? json(content_of(special[role], where)) : special[role],
                 true);
  if (has_value(special, "more"))
    for (const json& token : special["more"]) tokens.add(token, true);
  return tokens.take();
}

}  // namespace

json tokenizer_of_vocabulary_files(const std::string& folder) {
  const std::string config_path = folder + "/tokenizer_config.json";
  const json config = read_if_there(config_path);
  json vocabulary = read_json_file(folder + "/vocab.json");
  if (!vocabulary.is_object()) fail(Exit::data, "{}/vocab.json: not an object", folder);
  const Family family = family_of(folder, config, vocabulary);
  const json special = special_roles(folder, config, family);

  json document;
  document["added_tokens"] = added_tokens(folder, config, vocabulary, special, family);
  document["model"] = {{"type", "BPE"}, {"merges", read_merges(folder + "/merges.txt")}};
  document["decoder"] = {{"type", "ByteLevel"}};
  const bool prefix_space = bool_member(config, "add_prefix_space", false, config_path);
  if (family == Family::gpt2) {
    document["pre_tokenizer"] = byte_level(true, prefix_space);
  } else if (family == Family::qwen2) {
    document["normalizer"] = {{"type", "NFC"}};
    document["pre_tokenizer"] = sequence("pretokenizers", {split(qwen2_pattern, "Isolated", false),
                                                           byte_level(false, prefix_space)});
  } else {
    const json compose = {{"type", "NFC"}}, lower = {{"type", "Lowercase"}};
    const json space = {{"type", "Replace"}, {"pattern", {{"Regex", R"(\s+)"}}}, {"content", " "}};
    document["normalizer"] = sequence("normalizers", {compose, space, lower});
    document["pre_tokenizer"] =
        sequence("pretokenizers", {split(clip_pattern, "Removed", true), byte_level(true, false)});
    document["model"]["end_of_word_suffix"] = "</w>";
    document["model"]["unk_token"] = content_of(special["unk_token"], config_path);
    const auto pair = [&](const char* role) -> json {
      const std::string text = content_of(special[role], config_path);
      for (const json& token : document["added_tokens"])
        if (token["content"] == text) return {text, token["id"]};
      fail(Exit::data, "{}: no {}", config_path, role);
    };
    document["post_processor"] = {
        {"type", "RobertaProcessing"}, {"cls", pair("bos_token")}, {"sep", pair("eos_token")}};
  }
  document["model"]["vocab"] = std::move(vocabulary);
  return document;
}

}  // namespace strata
