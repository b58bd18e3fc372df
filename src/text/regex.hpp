#pragma once
// Regular expressions of tokenizer.json. They are written for Oniguruma's Ruby syntax; PCRE2 runs
// them after the few constructs that mean something else there are rewritten or refused.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// A stretch [begin, end) of a text and whether the pattern matched it.
struct Span {
  std::size_t begin, end;
  bool matched;
};

class Regex {
 public:
  /// Error(65) naming `where` when the pattern does not compile or uses what is not supported.
  static Regex compile(const std::string& pattern, const std::string& where);
  /// Matches this text and nothing else.
  static Regex literal(const std::string& text, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// The whole text cut into matched and unmatched spans, in order. An empty match directly behind
  /// another match is none.
  std::vector<Span> cut(std::string_view text) const;
  /// The text with every match replaced by `content`; more than 2^24 bytes of it are Error(65).
  std::string replace(std::string_view text, std::string_view content) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace strata
