#include "text/normalizer.hpp"

#include <vector>

#include "text/fields.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

namespace strata {

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
  std::string apply(std::string text) const override {
    std::string out;
    for (const Span& span : pattern_.cut(text))
      if (span.matched)
        out += content_;
      else
        out.append(text, span.begin, span.end - span.begin);
    return out;
  }

 private:
  Regex pattern_;
  std::string content_;
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
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const auto& step : array_member(description, "normalizers", where))
      steps.push_back(make_normalizer(step, where));
    return std::make_unique<NormalizerSequence>(std::move(steps));
  }
  fail(Exit::data, "{}: normalizer type {:.60} is not supported", where, type);
}

}  // namespace strata
