#include "text/tokenizer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "text/added_tokens.hpp"
#include "text/fields.hpp"
#include "text/post_processor.hpp"
#include "text/pre_tokenizer.hpp"
#include "text/unicode.hpp"

namespace strata {

using nlohmann::json;

namespace {

const json& value_or_null(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string tokenizer_folder(const std::string& dir) {
  for (const std::string& folder : {dir, dir + "/tokenizer"})
    if (file_exists(folder + "/tokenizer.json")) return folder;
  fail(Exit::data, "{}: no tokenizer.json there (nor in tokenizer/)", dir);
}

}  // namespace

struct Tokenizer::State {
  State(const json& document, const std::string& path)
      : where(path),
        normalizer(make_normalizer(value_or_null(document, "normalizer"), path)),
        pre_tokenizer(make_pre_tokenizer(value_or_null(document, "pre_tokenizer"), path)),
        model(member(document, "model", path), path),
        added(value_or_null(document, "added_tokens"), model, *normalizer, path),
        surround(make_post_processor(value_or_null(document, "post_processor"), path)) {
    for (const auto* side : {&surround.before, &surround.after})
      for (std::int32_t id : *side)
        if (id >= vocabulary_size())
          fail(Exit::data, "{}: the template's id {} is not in the vocabulary", path, id);
  }

  std::int64_t vocabulary_size() const {
    return std::int64_t{std::max(model.largest_id(), added.largest_id())} + 1;
  }

  std::int32_t id_of(const std::string& token) const {
    const std::int32_t id = added.id_of(token);
    return id >= 0 ? id : model.id_of(token).value_or(-1);
  }

  /// tokenizer_config.json may ask for a begin or end token that the template leaves out.
  void add_configured_tokens(const json& config, const std::string& path) {
    const auto configured = [&](const char* flag, const char* key, std::vector<std::int32_t>& side,
                                bool front) {
      if (!bool_member(config, flag, false, path)) return;
      const json& token = member(config, key, path);
      const std::string text = token.is_object() ? string_member(token, "content", path)
                                                 : string_member(config, key, path);
      const std::int32_t id = id_of(text);
      if (id < 0)
        fail(Exit::data, "{}: {} {:.80} is not in the vocabulary", path, key, json(text).dump());
      if (std::find(side.begin(), side.end(), id) == side.end())
        side.insert(front ? side.begin() : side.end(), id);
    };
    configured("add_bos_token", "bos_token", surround.before, true);
    configured("add_eos_token", "eos_token", surround.after, false);
  }

  void encode_text(std::string_view text, std::vector<std::int32_t>& ids) const {
    for (const Piece& piece : added.cut(text, false)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      const std::string normalized = normalizer->apply(std::string(piece.text));
      for (const Piece& part : added.cut(normalized, true)) {
        if (part.id >= 0) {
          ids.push_back(part.id);
          continue;
        }
        for (const std::string& word : pre_tokenizer->cut({std::string(part.text)}))
          model.encode(word, ids);
      }
    }
  }

  std::string where, sha256;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  BytePairModel model;
  AddedTokens added;
  Surround surround;
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& dir) {
  const std::string folder = tokenizer_folder(dir);
  const std::string path = folder + "/tokenizer.json";
  const std::string text = read_file(path, std::uint64_t{256} << 20);
  const json document = parse_json(text, path);
  auto state = std::make_unique<State>(document, path);
  state->sha256 = sha256_hex(text);
  const std::string config = folder + "/tokenizer_config.json";
  if (file_exists(config)) state->add_configured_tokens(read_json_file(config), config);
  return Tokenizer(std::move(state));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool special,
                                            std::size_t max_tokens) const {
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    fail(Exit::data, "invalid UTF-8 at byte {}", at);
  std::vector<std::int32_t> ids;
  if (special) ids = state_->surround.before;
  const std::size_t before = ids.size();
  const std::size_t after = special ? state_->surround.after.size() : 0;
  state_->encode_text(text, ids);
  if (max_tokens > 0 && ids.size() + after > max_tokens)
    ids.resize(std::max(before, max_tokens - std::min(max_tokens, after)));
  if (special) ids.insert(ids.end(), state_->surround.after.begin(), state_->surround.after.end());
  return ids;
}

std::int64_t Tokenizer::vocabulary_size() const {
  return state_->vocabulary_size();
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
