#include "text/token_decoder.hpp"

#include <charconv>

#include "text/byte_alphabet.hpp"
#include "text/fields.hpp"
#include "text/metaspace.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

class Spaced : public TokenDecoder {
 public:
  Tokens apply(Tokens tokens) const override {
    for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, " ");
    return tokens;
  }
};

class Fuse : public TokenDecoder {
 public:
  Tokens apply(Tokens tokens) const override { return {joined(tokens)}; }
};

class ByteLevelDecoder : public TokenDecoder {
 public:
  Tokens apply(Tokens tokens) const override {
    for (std::string& token : tokens)
      if (auto bytes = from_byte_alphabet(token)) token = std::move(*bytes);
    return {replace_invalid_utf8(joined(tokens))};
  }
};

/// Runs of <0xNN> become the characters that they spell, or a U+FFFD a byte.
class ByteFallback : public TokenDecoder {
 public:
  Tokens apply(Tokens tokens) const override {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (find_invalid_utf8(bytes) == std::string::npos) {
        if (!bytes.empty()) out.push_back(bytes);
      } else {
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        bytes += static_cast<char>(byte);
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    return out;
  }

 private:
  static int byte_of(const std::string& token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    unsigned byte = 0;
    const char* end = token.data() + 5;
    const auto read = std::from_chars(token.data() + 3, end, byte, 16);
    return read.ec == std::errc() && read.ptr == end ? static_cast<int>(byte) : -1;
  }
};

class MetaspaceDecoder : public TokenDecoder {
 public:
  explicit MetaspaceDecoder(MetaspaceOptions options) : options_(std::move(options)) {}
  Tokens apply(Tokens tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const bool drops = i == 0 && options_.scheme != MetaspaceOptions::Scheme::never;
      std::string text;
      std::size_t begin = 0;
      for (std::size_t at; (at = tokens[i].find(options_.replacement, begin)) != std::string::npos;
           begin = at + options_.replacement.size()) {
        text.append(tokens[i], begin, at - begin);
        if (!drops) text += ' ';
      }
      tokens[i] = text.append(tokens[i], begin);
    }
    return tokens;
  }

 private:
  MetaspaceOptions options_;
};

class ReplaceDecoder : public TokenDecoder {
 public:
  ReplaceDecoder(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Tokens apply(Tokens tokens) const override {
    for (std::string& token : tokens) token = pattern_.replace(token, content_);
    return tokens;
  }

 private:
  Regex pattern_;
  std::string content_;
};

/// Takes at most `start` and `stop` of one character from a token's ends.
class StripDecoder : public TokenDecoder {
 public:
  StripDecoder(std::string content, std::size_t start, std::size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  Tokens apply(Tokens tokens) const override {
    for (std::string& token : tokens) {
      std::string_view left = token;
      for (std::size_t i = 0; i < start_ && left.starts_with(content_); ++i)
        left.remove_prefix(content_.size());
      for (std::size_t i = 0; i < stop_ && left.ends_with(content_); ++i)
        left.remove_suffix(content_.size());
      token = std::string(left);
    }
    return tokens;
  }

 private:
  std::string content_;
  std::size_t start_, stop_;
};

/// The suffix at a word's end becomes a space, at the text's end nothing.
class SuffixDecoder : public TokenDecoder {
 public:
  explicit SuffixDecoder(Regex suffix) : suffix_(std::move(suffix)) {}
  Tokens apply(Tokens tokens) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = suffix_.replace(tokens[i], i + 1 == tokens.size() ? "" : " ");
    return tokens;
  }

 private:
  Regex suffix_;
};

class DecoderSequence : public TokenDecoder {
 public:
  explicit DecoderSequence(std::vector<std::unique_ptr<TokenDecoder>> steps)
      : steps_(std::move(steps)) {}
  Tokens apply(Tokens tokens) const override {
    for (const auto& step : steps_) tokens = step->apply(std::move(tokens));
    return tokens;
  }

 private:
  std::vector<std::unique_ptr<TokenDecoder>> steps_;
};

std::size_t count_member(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto& value = member(object, key, where);
  if (!value.is_number_unsigned()) fail(Exit::data, "{}: \"{}\" is not a count", where, key);
  return value.get<std::size_t>();
}

std::unique_ptr<TokenDecoder> strip_decoder(const nlohmann::json& description,
                                            const std::string& where) {
  std::string content = string_member(description, "content", where);
  if (content.empty() || utf8_length(content[0]) != content.size())
    fail(Exit::data, "{}: decoder Strip: its content is not one character", where);
  return std::make_unique<StripDecoder>(std::move(content),
                                        count_member(description, "start", where),
                                        count_member(description, "stop", where));
}

}  // namespace

std::unique_ptr<TokenDecoder> make_token_decoder(const nlohmann::json& description,
                                                 const std::string& where) {
  if (description.is_null()) return std::make_unique<Spaced>();
  const std::string type = string_member(description, "type", where);
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "ByteFallback") return std::make_unique<ByteFallback>();
  if (type == "Fuse") return std::make_unique<Fuse>();
  if (type == "Metaspace")
    return std::make_unique<MetaspaceDecoder>(MetaspaceOptions(description, where));
  if (type == "Replace")
    return std::make_unique<ReplaceDecoder>(
        make_pattern(member(description, "pattern", where), where),
        string_member(description, "content", where));
  if (type == "Strip") return strip_decoder(description, where);
  if (type == "BPEDecoder")
    return std::make_unique<SuffixDecoder>(
        Regex::literal(string_member(description, "suffix", where), where));
  if (type == "Sequence") {
    std::vector<std::unique_ptr<TokenDecoder>> steps;
    for (const auto& step : array_member(description, "decoders", where))
      steps.push_back(make_token_decoder(step, where));
    return std::make_unique<DecoderSequence>(std::move(steps));
  }
  fail(Exit::data, "{}: decoder type {:.60} is not supported", where, type);
}

}  // namespace strata
