#include "text/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>

#include "core/error.hpp"
#include "text/growth.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

constexpr std::size_t max_pattern_bytes = 64 * 1024;

// Oniguruma's classes in terms of properties. PCRE2's own \s also has U+180E, its \w fewer marks.
constexpr std::string_view space_class = R"(\p{Z}\x09-\x0D\x{85})";
constexpr std::string_view word_class = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view hex_class = "0-9A-Fa-f";

/// Rewrites one pattern from Oniguruma's Ruby syntax to PCRE2's.
class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\')
        escape();
      else if (in_class_)
        inside_class(c);
      else if (c == '[')
        open_class();
      else if (c == '(')
        group();
      else
        copy(1);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(Exit::data, "{}: regular expression \"{}\": {} at byte {} is not supported", where_,
         std::string_view(pattern_).substr(0, 200), what, at_);
  }
  void copy(std::size_t bytes) {
    out_.append(pattern_, at_, bytes);
    at_ += bytes;
  }
  void replace(std::string_view members, bool negated) {
    if (in_class_ && negated) refuse("a negated escape inside a class");
    if (in_class_)
      out_ += members;
    else
      out_.append(negated ? "[^" : "[").append(members).append("]");
    at_ += 2;
  }

  void escape() {
    const char next = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    switch (next) {
      case 's':
        return replace(space_class, false);
      case 'S':
        return replace(space_class, true);
      case 'w':
        return replace(word_class, false);
      case 'W':
        return replace(word_class, true);
      case 'h':
        return replace(hex_class, false);
      case 'H':
        return replace(hex_class, true);
      case 'K':
      case 'R':
      case 'X':
      case 'y':
      case 'Y':
      case 'C':
      case 'N':
      case 'O':
      case 'b':
      case 'B':
      case 'G':
      case 'g':
      case 'k':
      case 'Q':
      case 'E':
        refuse(fmt::format("\\{}", next));
      default:
        copy(2);
    }
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (at_ < pattern_.size() && pattern_[at_] == '^') copy(1);
    if (at_ < pattern_.size() && pattern_[at_] == ']') copy(1);
  }

  void inside_class(char c) {
    if (c == '[') refuse("a class inside a class");
    if (pattern_.compare(at_, 2, "&&") == 0) refuse("a class intersection");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  /// Inline options: only i means the same in both.
  void group() {
    std::size_t end = at_ + 1;
    if (end < pattern_.size() && pattern_[end] == '?') {
      for (++end; end < pattern_.size() && std::isalpha(static_cast<unsigned char>(pattern_[end]));
           ++end)
        if (pattern_[end] != 'i') refuse("this group option");
      copy(end - at_);
    } else if (end < pattern_.size() && pattern_[end] == '*') {
      refuse("a verb");
    } else {
      copy(1);
    }
  }

  const std::string& pattern_;
  const std::string& where_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  std::string where;

  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }

  void compile(const std::string& pattern, std::uint32_t options) {
    if (pattern.size() > max_pattern_bytes || find_invalid_utf8(pattern) != std::string::npos)
      fail(Exit::data, "{}: regular expression is too long or not UTF-8", where);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_compile_context* compile_context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(compile_context, PCRE2_NEWLINE_LF);
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         options | PCRE2_UTF, &error, &offset, compile_context);
    pcre2_compile_context_free(compile_context);
    if (!code) {
      PCRE2_UCHAR message[160];
      pcre2_get_error_message(error, message, sizeof message);
      fail(Exit::data, "{}: regular expression \"{}\": {} at byte {}", where,
           std::string_view(pattern).substr(0, 200), reinterpret_cast<const char*>(message),
           offset);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // optional: the interpreter does the same
    match = pcre2_match_data_create(1, nullptr);
    context = pcre2_match_context_create(nullptr);
    stack = pcre2_jit_stack_create(32 * 1024, 16 * 1024 * 1024, nullptr);
    STRATA_CHECK(match && context && stack, "PCRE2: out of memory");
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

Regex Regex::compile(const std::string& pattern, const std::string& where) {
  auto code = std::make_unique<Code>();
  code->where = where;
  // In Ruby's syntax ^ and $ stand at every line.
  code->compile(Translator(pattern, where).run(),
                PCRE2_MULTILINE | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  return Regex(std::move(code));
}

Regex Regex::literal(const std::string& text, const std::string& where) {
  auto code = std::make_unique<Code>();
  code->where = where;
  code->compile(text, PCRE2_LITERAL);
  return Regex(std::move(code));
}

std::vector<Span> Regex::cut(std::string_view text) const {
  std::vector<Span> spans;
  if (text.empty()) return spans;
  std::size_t from = 0, covered = 0, last_end = std::string_view::npos;
  while (from <= text.size()) {
    const int found =
        pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK, code_->match, code_->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) fail(Exit::data, "{}: PCRE2 error {} while matching", code_->where, found);
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(code_->match);
    const std::size_t begin = ends[0], end = ends[1];
    if (begin == end && end == last_end) {
      if (from == text.size()) break;
      from += utf8_length(text[from]);
      continue;
    }
    if (covered < begin) spans.push_back({covered, begin, false});
    spans.push_back({begin, end, true});
    covered = from = last_end = end;
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
  return spans;
}

std::string Regex::replace(std::string_view text, std::string_view content) const {
  std::string out;
  for (const Span& span : cut(text)) {
    out += span.matched ? content : text.substr(span.begin, span.end - span.begin);
    check_growth(out.size(), code_->where);
  }
  return out;
}

}  // namespace strata
