#pragma once
// Text to token ids and back.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// Immutable after `load`, except for a word cache: one Tokenizer per thread.
class Tokenizer {
 public:
  /// dir: the module's own folder, or a pipeline folder that holds `tokenizer/`. Of the layouts
  /// that are there the first of these is read:
  ///   tokenizer.json                         as Hugging Face's `tokenizers` computes it
  ///   tokenizer.model or spiece.model        as SentencePiece does; the text of special tokens
  ///                                          stays text
  ///   vocab.json and merges.txt              as `transformers` makes a tokenizer of them for
  ///                                          CLIP, Qwen2 and GPT-2
  /// tokenizer_config.json adds begin and end (add_bos_token, add_eos_token) where the template
  /// does not. Error(65) names the file and what is unsound or not supported.
  static Tokenizer load(const std::string& dir);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids exactly as the model is fed them. special: the template's and the added begin/end tokens.
  /// max_tokens = 0: unlimited; otherwise the special tokens stay and the text's own ids are cut at
  /// the end. Error(65) "invalid UTF-8 at byte N" when the text is not UTF-8.
  std::vector<std::int32_t> encode(std::string_view text, bool special = true,
                                   std::size_t max_tokens = 0) const;
  /// The text of ids, always UTF-8 (U+FFFD for bytes that are not). Ids outside the vocabulary are
  /// left out, with skip_special also special tokens.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;

  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// The special token at a text's end (CLIP pools there), if there is one.
  std::optional<std::int32_t> end_of_text() const;
  /// The cut where nothing else is said: 77 for CLIP, 256 for the others.
  std::size_t default_max_tokens() const;
  /// One more than the largest id.
  std::int64_t vocabulary_size() const;
  /// SHA-256 of the vocabulary file, or of vocab.json and merges.txt laid end to end; hex.
  const std::string& sha256() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State>);
  std::unique_ptr<State> state_;
};

/// The lines of a UTF-8 text file: they end at LF only (a CR belongs to its line), a last line
/// without LF counts. Error(65) when there is no line, or naming the 1-based line of invalid UTF-8.
std::vector<std::string> read_text_lines(const std::string& path);

}  // namespace strata
