#include "text/pre_tokenizer.hpp"

#include <algorithm>

#include "text/byte_alphabet.hpp"
#include "text/fields.hpp"
#include "text/growth.hpp"
#include "text/metaspace.hpp"
#include "text/pattern.hpp"

namespace strata {

namespace {

/// What becomes of the stretches that a pattern matched.
enum class Behaviour { isolated, removed, merged_with_previous, merged_with_next, contiguous };

Behaviour parse_behaviour(const std::string& name, const std::string& where) {
  if (name == "Isolated") return Behaviour::isolated;
  if (name == "Removed") return Behaviour::removed;
  if (name == "MergedWithPrevious") return Behaviour::merged_with_previous;
  if (name == "MergedWithNext") return Behaviour::merged_with_next;
  if (name == "Contiguous") return Behaviour::contiguous;
  fail(Exit::data, "{}: split behaviour {:.60} is not supported", where, name);
}

/// Joins neighbours in place; walks from the end for merged_with_next.
std::vector<Span> merge(std::vector<Span> spans, Behaviour behaviour) {
  const bool backwards = behaviour == Behaviour::merged_with_next;
  if (backwards) std::reverse(spans.begin(), spans.end());
  std::vector<Span> merged;
  bool previous_matched = false;
  for (const Span& span : spans) {
    const bool joins = behaviour == Behaviour::contiguous ? span.matched == previous_matched
                                                          : span.matched && !previous_matched;
    if (joins && !merged.empty()) {
      if (backwards)
        merged.back().begin = span.begin;
      else
        merged.back().end = span.end;
    } else {
      merged.push_back(span);
    }
    previous_matched = span.matched;
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  return merged;
}

void cut_word(const Word& word, const Regex& pattern, Behaviour behaviour, bool invert,
              std::vector<Word>& out) {
  std::vector<Span> spans = pattern.cut(word.text);
  if (invert)
    for (Span& span : spans) span.matched = !span.matched;
  if (behaviour != Behaviour::isolated && behaviour != Behaviour::removed)
    spans = merge(std::move(spans), behaviour);
  for (const Span& span : spans)
    if (span.begin < span.end && !(behaviour == Behaviour::removed && span.matched))
      out.push_back(
          {word.text.substr(span.begin, span.end - span.begin), word.at_begin && span.begin == 0});
}

class Split : public PreTokenizer {
 public:
  Split(Regex pattern, Behaviour behaviour, bool invert)
      : pattern_(std::move(pattern)), behaviour_(behaviour), invert_(invert) {}
  std::vector<Word> cut(std::vector<Word> words) const override {
    std::vector<Word> out;
    for (const Word& word : words) cut_word(word, pattern_, behaviour_, invert_, out);
    return out;
  }

 private:
  Regex pattern_;
  Behaviour behaviour_;
  bool invert_;
};

constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space),
        use_regex_(use_regex),
        pattern_(Regex::compile(gpt2_pattern, where)) {}

  std::vector<Word> cut(std::vector<Word> words) const override {
    std::vector<Word> pieces;
    for (Word& word : words) {
      if (add_prefix_space_ && !word.text.starts_with(' ')) word.text = ' ' + word.text;
      if (use_regex_)
        cut_word(word, pattern_, Behaviour::isolated, false, pieces);
      else
        pieces.push_back(std::move(word));
    }
    for (Word& piece : pieces) piece.text = to_byte_alphabet(piece.text);
    return pieces;
  }

 private:
  bool add_prefix_space_, use_regex_;
  Regex pattern_;
};

/// Spaces become a visible character, and each of these begins a word.
class Metaspace : public PreTokenizer {
 public:
  Metaspace(MetaspaceOptions options, bool split) : options_(std::move(options)), split_(split) {}

  std::vector<Word> cut(std::vector<Word> words) const override {
    const std::string& mark = options_.replacement;
    std::vector<Word> out;
    for (const Word& word : words) {
      std::string text;
      for (char c : word.text)
        if (c == ' ')
          text += mark;
        else
          text += c;
      const bool prepends = options_.scheme == MetaspaceOptions::Scheme::always ||
                            (options_.scheme == MetaspaceOptions::Scheme::first && word.at_begin);
      if (prepends && !text.starts_with(mark)) text.insert(0, mark);
      std::size_t begin = 0;
      while (begin < text.size()) {
        const std::size_t end = split_ ? text.find(mark, begin + 1) : std::string::npos;
        out.push_back({text.substr(begin, end - begin), word.at_begin && begin == 0});
        begin = std::min(end, text.size());
      }
    }
    return out;
  }

 private:
  MetaspaceOptions options_;
  bool split_;
};

/// Words (UTS 18, joiners included) and runs of what is neither word nor space.
constexpr const char* words_pattern = R"([\w\x{200C}\x{200D}]+|[^\w\x{200C}\x{200D}\s]+)";

class PreTokenizerSequence : public PreTokenizer {
 public:
  PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps, std::string where)
      : steps_(std::move(steps)), where_(std::move(where)) {}
  std::vector<Word> cut(std::vector<Word> words) const override {
    for (const auto& step : steps_) {
      words = step->cut(std::move(words));
      std::size_t bytes = 0;
      for (const Word& word : words) bytes += word.text.size();
      check_growth(bytes, where_);
    }
    return words;
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
  std::string where_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& description,
                                                 const std::string& where) {
  using Steps = std::vector<std::unique_ptr<PreTokenizer>>;
  if (description.is_null()) return std::make_unique<PreTokenizerSequence>(Steps{}, where);
  const std::string type = string_member(description, "type", where);
  if (type == "ByteLevel")
    return std::make_unique<ByteLevel>(bool_member(description, "add_prefix_space", true, where),
                                       bool_member(description, "use_regex", true, where), where);
  if (type == "Split")
    return std::make_unique<Split>(
        make_pattern(member(description, "pattern", where), where),
        parse_behaviour(string_member(description, "behavior", where), where),
        bool_member(description, "invert", false, where));
  if (type == "Digits") {
    const bool individual = bool_member(description, "individual_digits", false, where);
    return std::make_unique<Split>(Regex::compile(R"(\p{N})", where),
                                   individual ? Behaviour::isolated : Behaviour::contiguous, false);
  }
  if (type == "Punctuation") {
    const bool said = has_value(description, "behavior");
    return std::make_unique<Split>(
        Regex::compile(R"([!-/:-@\[-`{-~\p{P}])", where),
        parse_behaviour(said ? string_member(description, "behavior", where) : "Isolated", where),
        false);
  }
  if (type == "Metaspace")
    return std::make_unique<Metaspace>(MetaspaceOptions(description, where),
                                       bool_member(description, "split", true, where));
  if (type == "WhitespaceSplit")
    return std::make_unique<Split>(Regex::compile(R"(\s)", where), Behaviour::removed, false);
  if (type == "Whitespace")
    return std::make_unique<Split>(Regex::compile(words_pattern, where), Behaviour::removed, true);
  if (type == "Sequence") {
    Steps steps;
    for (const auto& step : array_member(description, "pretokenizers", where))
      steps.push_back(make_pre_tokenizer(step, where));
    return std::make_unique<PreTokenizerSequence>(std::move(steps), where);
  }
  fail(Exit::data, "{}: pre-tokenizer type {:.60} is not supported", where, type);
}

}  // namespace strata
