#include "text/pre_tokenizer.hpp"

#include <algorithm>
#include <array>

#include "text/fields.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

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

void cut_word(const std::string& word, const Regex& pattern, Behaviour behaviour, bool invert,
              std::vector<std::string>& out) {
  std::vector<Span> spans = pattern.cut(word);
  if (invert)
    for (Span& span : spans) span.matched = !span.matched;
  if (behaviour != Behaviour::isolated && behaviour != Behaviour::removed)
    spans = merge(std::move(spans), behaviour);
  for (const Span& span : spans)
    if (span.begin < span.end && !(behaviour == Behaviour::removed && span.matched))
      out.push_back(word.substr(span.begin, span.end - span.begin));
}

class Split : public PreTokenizer {
 public:
  Split(Regex pattern, Behaviour behaviour, bool invert)
      : pattern_(std::move(pattern)), behaviour_(behaviour), invert_(invert) {}
  std::vector<std::string> cut(std::vector<std::string> words) const override {
    std::vector<std::string> out;
    for (const std::string& word : words) cut_word(word, pattern_, behaviour_, invert_, out);
    return out;
  }

 private:
  Regex pattern_;
  Behaviour behaviour_;
  bool invert_;
};

/// GPT-2's alphabet (Radford et al. 2019): printable Latin-1 bytes stand for themselves, the others
/// for U+0100 and up in order.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    append_utf8(alphabet[byte], printable ? byte : next++);
  }
  return alphabet;
}

constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space),
        use_regex_(use_regex),
        pattern_(Regex::compile(gpt2_pattern, where)),
        alphabet_(byte_alphabet()) {}

  std::vector<std::string> cut(std::vector<std::string> words) const override {
    std::vector<std::string> pieces;
    for (std::string& word : words) {
      if (add_prefix_space_ && !word.starts_with(' ')) word = ' ' + word;
      if (use_regex_)
        cut_word(word, pattern_, Behaviour::isolated, false, pieces);
      else
        pieces.push_back(std::move(word));
    }
    for (std::string& piece : pieces) {
      std::string mapped;
      mapped.reserve(piece.size() * 2);
      for (char c : piece) mapped += alphabet_[static_cast<unsigned char>(c)];
      piece = std::move(mapped);
    }
    return pieces;
  }

 private:
  bool add_prefix_space_, use_regex_;
  Regex pattern_;
  std::array<std::string, 256> alphabet_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  std::vector<std::string> cut(std::vector<std::string> words) const override {
    for (const auto& step : steps_) words = step->cut(std::move(words));
    return words;
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const nlohmann::json& description,
                                                 const std::string& where) {
  using Steps = std::vector<std::unique_ptr<PreTokenizer>>;
  if (description.is_null()) return std::make_unique<PreTokenizerSequence>(Steps{});
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
  if (type == "Sequence") {
    Steps steps;
    for (const auto& step : array_member(description, "pretokenizers", where))
      steps.push_back(make_pre_tokenizer(step, where));
    return std::make_unique<PreTokenizerSequence>(std::move(steps));
  }
  fail(Exit::data, "{}: pre-tokenizer type {:.60} is not supported", where, type);
}

}  // namespace strata
