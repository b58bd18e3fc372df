#include "text/tokenizer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "text/fields.hpp"
#include "text/json_tokenizer.hpp"
#include "text/sentence_piece.hpp"
#include "text/unicode.hpp"
#include "text/vocabulary_files.hpp"

namespace strata {

using nlohmann::json;

namespace {

constexpr std::uint64_t max_file_bytes = std::uint64_t{256} << 20;
constexpr std::size_t clip_max_tokens = 77, other_max_tokens = 256;

/// The begin or end token that tokenizer_config.json names, if it asks for one.
std::optional<std::int32_t> configured_token(const TokenizerBackend& backend, const json& config,
                                             const std::string& role, const std::string& path) {
  if (!bool_member(config, ("add_" + role).c_str(), false, path)) return std::nullopt;
  const json& token = member(config, role.c_str(), path);
  const std::string text = token.is_object() ? string_member(token, "content", path)
                                             : string_member(config, role.c_str(), path);
  const auto id = backend.id_of(text);
  if (!id)
    fail(Exit::data, "{}: {} {:.80} is not in the vocabulary", path, role, json(text).dump());
  return id;
}

bool holds(const std::vector<std::int32_t>& ids, std::int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

struct Tokenizer::State {
  std::unique_ptr<TokenizerBackend> backend;
  Surround surround;
  std::string sha256;
  bool is_clip = false;
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& dir) {
  auto state = std::make_unique<State>();
  const auto read_json_layout = [&](const std::string& path) {
    const std::string text = read_file(path, max_file_bytes);
    const json document = parse_json(text, path);
    state->backend = make_json_tokenizer(document, path);
    state->sha256 = sha256_hex(text);
    state->is_clip = document["model"].value("end_of_word_suffix", json()) == "</w>";
  };
  for (const std::string& folder : {dir, dir + "/tokenizer"}) {
    const auto there = [&](const char* name) { return file_exists(folder + "/" + name); };
    const std::string config_path = folder + "/tokenizer_config.json";
    const json config =
        there("tokenizer_config.json") ? read_json_file(config_path) : json::object();
    if (!config.is_object()) fail(Exit::data, "{}: not an object", config_path);
    if (there("tokenizer.json")) {
      read_json_layout(folder + "/tokenizer.json");
    } else if (there("tokenizer.model") || there("spiece.model")) {
      const std::string path =
          folder + (there("tokenizer.model") ? "/tokenizer.model" : "/spiece.model");
      const std::string bytes = read_file(path, max_file_bytes);
      state->backend = make_sentence_piece(bytes, config, path);
      state->sha256 = sha256_hex(bytes);
    } else if (there("vocab.json") && there("merges.txt")) {
      const std::string files[] = {folder + "/vocab.json", folder + "/merges.txt"};
      const json document = tokenizer_of_vocabulary_files(folder);
      state->backend = make_json_tokenizer(document, files[0]);
      state->sha256 = sha256_files(files);
      state->is_clip = document["model"].contains("end_of_word_suffix");
    } else {
      continue;
    }
    const json name = config.value("tokenizer_class", json());
    if (name.is_string() && name.get<std::string>().starts_with("CLIP")) state->is_clip = true;
    state->surround = state->backend->surround();
    auto& [before, after] = state->surround;
    const auto begin = configured_token(*state->backend, config, "bos_token", config_path);
    if (begin && !holds(before, *begin)) before.insert(before.begin(), *begin);
    const auto end = configured_token(*state->backend, config, "eos_token", config_path);
    if (end && !holds(after, *end)) after.push_back(*end);
    return Tokenizer(std::move(state));
  }
  fail(Exit::data,
       "{}: no tokenizer.json, tokenizer.model, spiece.model, or vocab.json with merges.txt there "
       "(nor in tokenizer/)",
       dir);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool special,
                                            std::size_t max_tokens) const {
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    fail(Exit::data, "invalid UTF-8 at byte {}", at);
  const Surround none, &surround = special ? state_->surround : none;
  std::vector<std::int32_t> ids = surround.before;
  const std::size_t before = ids.size(), after = surround.after.size();
  state_->backend->encode(text, ids);
  if (max_tokens > 0 && ids.size() + after > max_tokens)
    ids.resize(std::max(before, max_tokens - std::min(max_tokens, after)));
  ids.insert(ids.end(), surround.after.begin(), surround.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  return state_->backend->decode(ids, skip_special);
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
  return state_->backend->id_of(token);
}

std::optional<std::int32_t> Tokenizer::end_of_text() const {
  const auto& after = state_->surround.after;
  return after.empty() ? std::nullopt : std::optional(after.back());
}

std::size_t Tokenizer::default_max_tokens() const {
  return state_->is_clip ? clip_max_tokens : other_max_tokens;
}

std::int64_t Tokenizer::vocabulary_size() const {
  return state_->backend->vocabulary_size();
}

const std::string& Tokenizer::sha256() const {
  return state_->sha256;
}

std::vector<std::string> read_text_lines(const std::string& path) {
  const std::string content = read_file(path);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t end = std::min(content.find('\n', at), content.size());
    lines.push_back(content.substr(at, end - at));
    if (const std::size_t bad = find_invalid_utf8(lines.back()); bad != std::string::npos)
      fail(Exit::data, "{}: line {}: invalid UTF-8 at byte {}", path, lines.size(), bad);
    at = end + 1;
  }
  if (lines.empty()) fail(Exit::data, "{}: holds no line", path);
  return lines;
}

}  // namespace strata
