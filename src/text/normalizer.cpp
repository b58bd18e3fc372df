#include "text/normalizer.hpp"

#include <vector>

#include "text/charsmap.hpp"
#include "text/fields.hpp"
#include "text/growth.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

std::string decode_base64(std::string_view text, const std::string& where) {
  constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (char c : text.substr(0, text.find('='))) {
    const std::size_t digit = digits.find(c);
    if (digit == std::string_view::npos)
      fail(Exit::data, "{}: precompiled_charsmap is not Base64", where);
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count >= 8) out += static_cast<char>(bits >> (count -= 8));
  }
  return out;
}

}  // namespace

Regex make_pattern(const nlohmann::json& description, const std::string& where) {
  if (has_value(description, "Regex"))
    return Regex::compile(string_member(description, "Regex", where), where);
  return Regex::literal(string_member(description, "String", where), where);
}

namespace {

class Identity : public Normalizer {
 public:
  std::string apply(std::string text) const override { return text; }
};

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  std::string apply(std::string text) const override { return normalize(text, form_); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  std::string apply(std::string text) const override { return lower_case(text); }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string apply(std::string text) const override {
    return text.empty() ? text : prefix_ + text;
  }

 private:
  std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string apply(std::string text) const override { return pattern_.replace(text, content_); }

 private:
  Regex pattern_;
  std::string content_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  std::string apply(std::string text) const override {
    if (right_) text.resize(text.size() - space_at_end(text));
    if (left_) text.erase(0, space_at_begin(text));
    return text;
  }

 private:
  bool left_, right_;
};

/// SentencePiece's character map as `tokenizers` applies it: a rule stands for a whole grapheme
/// cluster of fewer than 6 bytes when it matches the cluster's beginning; where none does, and in
/// longer clusters, each character is looked up by itself.
class Precompiled : public Normalizer {
 public:
  Precompiled(std::string_view blob, const std::string& where) : map_(blob, where), where_(where) {}

  std::string apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    std::size_t begin = 0;
    for (const std::size_t end : grapheme_ends(text)) {
      const std::string_view cluster = std::string_view(text).substr(begin, end - begin);
      begin = end;
      const auto form = cluster.size() < 6 ? map_.shortest(cluster) : std::nullopt;
      if (form)
        out += *form;
      else
        append_characters(cluster, out);
      check_growth(out.size(), where_);
    }
    return out;
  }

 private:
  void append_characters(std::string_view cluster, std::string& out) const {
    for (std::size_t i = 0; i < cluster.size();) {
      const std::string_view character = cluster.substr(i, utf8_length(cluster[i]));
      out += map_.shortest(character).value_or(character);
      i += character.size();
    }
  }

  Charsmap map_;
  std::string where_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  std::string apply(std::string text) const override {
    for (const auto& step : steps_) text = step->apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const nlohmann::json& description,
                                            const std::string& where) {
  if (description.is_null()) return std::make_unique<Identity>();
  const std::string type = string_member(description, "type", where);
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::nfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::nfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::nfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::nfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Prepend")
    return std::make_unique<Prepend>(string_member(description, "prepend", where));
  if (type == "Replace")
    return std::make_unique<Replace>(make_pattern(member(description, "pattern", where), where),
                                     string_member(description, "content", where));
  if (type == "Strip")
    return std::make_unique<Strip>(bool_member(description, "strip_left", true, where),
                                   bool_member(description, "strip_right", true, where));
  if (type == "StripAccents")
    return std::make_unique<Replace>(Regex::compile(R"(\p{M}+)", where), "");
  if (type == "Precompiled")
    return std::make_unique<Precompiled>(
        decode_base64(string_member(description, "precompiled_charsmap", where), where), where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const auto& step : array_member(description, "normalizers", where))
      steps.push_back(make_normalizer(step, where));
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  fail(Exit::data, "{}: normalizer type {:.60} is not supported", where, type);
}

}  // namespace strata
