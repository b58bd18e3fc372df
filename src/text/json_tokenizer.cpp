#include "text/json_tokenizer.hpp"

#include <algorithm>

#include "text/added_tokens.hpp"
#include "text/fields.hpp"
#include "text/growth.hpp"
#include "text/pre_tokenizer.hpp"
#include "text/subword_model.hpp"
#include "text/token_decoder.hpp"

namespace strata {

namespace {

using nlohmann::json;

const json& value_or_null(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

class JsonTokenizer final : public TokenizerBackend {
 public:
  JsonTokenizer(const json& document, const std::string& where)
      : where_(where),
        normalizer_(make_normalizer(value_or_null(document, "normalizer"), where)),
        pre_tokenizer_(make_pre_tokenizer(value_or_null(document, "pre_tokenizer"), where)),
        model_(make_subword_model(member(document, "model", where), where)),
        added_(value_or_null(document, "added_tokens"), model_->vocabulary(), *normalizer_, where),
        surround_(make_post_processor(value_or_null(document, "post_processor"), where)),
        decoder_(make_token_decoder(value_or_null(document, "decoder"), where)) {
    for (const auto* side : {&surround_.before, &surround_.after})
      for (std::int32_t id : *side)
        if (id >= vocabulary_size())
          fail(Exit::data, "{}: the template's id {} is not in the vocabulary", where, id);
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    const GrowthLimit limit(text.size());
    const std::size_t before = ids.size();
    for (const Piece& piece : added_.cut(text, false)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      const bool at_begin = piece.text.data() == text.data();
      const std::string normalized = normalizer_->apply(std::string(piece.text));
      for (const Piece& part : added_.cut(normalized, true)) {
        if (part.id >= 0) {
          ids.push_back(part.id);
          continue;
        }
        const bool first = at_begin && part.text.data() == normalized.data();
        for (const Word& word : pre_tokenizer_->cut({{std::string(part.text), first}}))
          model_->encode(word.text, ids);
        check_growth(ids.size() - before, where_);
      }
    }
  }

  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    std::size_t bytes = 0;
    for (const std::int32_t id : ids) {
      auto token = added_.token_of(id);
      if (!token) token = model_->vocabulary().token_of(id);
      if (!token || (skip_special && added_.is_special(*token))) continue;
      bytes += token->size();
      tokens.emplace_back(*token);
    }
    const GrowthLimit limit(bytes);
    std::string text;
    for (const std::string& token : decoder_->apply(std::move(tokens))) text += token;
    return text;
  }

  std::optional<std::int32_t> id_of(std::string_view token) const override {
    const auto id = added_.id_of(token);
    return id ? id : model_->vocabulary().id_of(token);
  }

  Surround surround() const override { return surround_; }

  std::int64_t vocabulary_size() const override {
    return std::int64_t{std::max(model_->vocabulary().largest_id(), added_.largest_id())} + 1;
  }

 private:
  const std::string where_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<SubwordModel> model_;
  AddedTokens added_;
  Surround surround_;
  std::unique_ptr<TokenDecoder> decoder_;
};

}  // namespace

std::unique_ptr<TokenizerBackend> make_json_tokenizer(const nlohmann::json& document,
                                                      const std::string& where) {
  return std::make_unique<JsonTokenizer>(document, where);
}

}  // namespace strata
