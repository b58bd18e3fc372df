#pragma once
// Text to token ids, as Hugging Face's `tokenizers` computes them from tokenizer.json.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// A tokenizer.json of the byte-pair family (byte-level or with byte fallback). Immutable after
/// `load`, except for a word cache: one Tokenizer per thread.
class Tokenizer {
 public:
  /// dir: the module's own folder, or a pipeline folder that holds `tokenizer/`. Reads
  /// tokenizer.json and, when present, tokenizer_config.json (add_bos_token, add_eos_token).
  /// Error(65) names the file and the component that is not supported.
  static Tokenizer load(const std::string& dir);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids exactly as the model is fed them. special: the template's and the added begin/end tokens.
  /// max_tokens = 0: unlimited; otherwise the special tokens stay and the text's own ids are cut at
  /// the end. Error(65) "invalid UTF-8 at byte N" when the text is not UTF-8.
  std::vector<std::int32_t> encode(std::string_view text, bool special = true,
                                   std::size_t max_tokens = 0) const;

  /// One more than the largest id.
  std::int64_t vocabulary_size() const;
  /// SHA-256 of tokenizer.json, hex.
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
