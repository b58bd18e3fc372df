#include "text/sentence_piece.hpp"

#include <sentencepiece_processor.h>

#include "text/fields.hpp"
#include "text/sentence_piece_file.hpp"

namespace strata {

namespace {

using nlohmann::json;

class SentencePieceTokenizer : public TokenizerBackend {
 public:
  SentencePieceTokenizer(const std::string& bytes, const json& config, const std::string& path)
      : path_(path) {
    check_sentence_piece_file(bytes, path);
    require(processor_.LoadFromSerializedProto(bytes));
    pieces_ = processor_.GetPieceSize();
    if (const auto wider = with_byte_pieces(bytes, path))
      require(processor_.LoadFromSerializedProto(*wider));
    const std::string name =
        has_value(config, "tokenizer_class") ? string_member(config, "tokenizer_class", path) : "";
    const bool is_t5 = name.empty() ? path.ends_with("/spiece.model") : name.starts_with("T5");
    // Who says add_bos_token or add_eos_token is heard by Tokenizer.
    if (!is_t5 && !has_value(config, "add_bos_token") && processor_.bos_id() >= 0)
      surround_.before.push_back(processor_.bos_id());
    if (is_t5 && !has_value(config, "add_eos_token") && processor_.eos_id() >= 0)
      surround_.after.push_back(processor_.eos_id());
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    std::vector<int> own;
    require(processor_.Encode(text, &own));
    bool follows_unknown = false;
    for (const int id : own) {
      const bool is_unknown = id >= pieces_;  // a byte of an unknown character
      if (!is_unknown)
        ids.push_back(id);
      else if (!follows_unknown)
        ids.push_back(processor_.unk_id());
      follows_unknown = is_unknown;
    }
  }

  /// The library itself leaves control tokens out; skip_special also leaves out the unknown token.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override {
    std::vector<int> known;
    for (const std::int32_t id : ids)
      if (id >= 0 && id < pieces_ &&
          !(skip_special && (processor_.IsControl(id) || processor_.IsUnknown(id))))
        known.push_back(id);
    std::string text;
    require(processor_.Decode(known, &text));
    return text;
  }

  std::optional<std::int32_t> id_of(std::string_view token) const override {
    const int id = processor_.PieceToId(token);
    if (id >= pieces_ || processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }

  Surround surround() const override { return surround_; }
  std::int64_t vocabulary_size() const override { return pieces_; }

 private:
  void require(const sentencepiece::util::Status& status) const {
    if (!status.ok()) fail(Exit::data, "{}: SentencePiece: {:.200}", path_, status.message());
  }

  std::string path_;
  sentencepiece::SentencePieceProcessor processor_;  // may have byte pieces behind its own
  int pieces_ = 0;                                   // its own
  Surround surround_;
};

}  // namespace

std::unique_ptr<TokenizerBackend> make_sentence_piece(const std::string& bytes, const json& config,
                                                      const std::string& path) {
  return std::make_unique<SentencePieceTokenizer>(bytes, config, path);
}

}  // namespace strata
