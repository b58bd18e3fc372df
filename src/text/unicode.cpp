#include "text/unicode.hpp"

#include <unicode/brkiter.h>
#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/stringoptions.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>
#include <unicode/utext.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace strata {

namespace {

/// The bytes of the character that `text` begins with, and whether it is whole; where it is not,
/// how many bytes belong to what could have become one.
std::pair<std::size_t, bool> first_sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what is past U+10FFFF.
  unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t k = 1; k < length; ++k) {
    if (k == text.size() || byte(k) < low || byte(k) > high) return {k, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto [bytes, whole] = first_sequence(text.substr(i));
    if (!whole) return i;
    i += bytes;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto [length, whole] = first_sequence(bytes.substr(i));
    out += whole ? bytes.substr(i, length) : std::string_view("\xEF\xBF\xBD");
    i += length;
  }
  return out;
}

void append_utf8(std::string& text, std::uint32_t code_point) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

namespace {

/// Decomposed, each run of combining marks in canonical order (Unicode Standard 3.11). ICU's own
/// reordering inserts mark by mark, which takes quadratic time on a long run.
icu::UnicodeString decompose(const icu::UnicodeString& text, const icu::Normalizer2& decomposer) {
  std::vector<std::pair<std::uint8_t, UChar32>> marks;  // of the run that is open
  icu::UnicodeString out, parts;
  const auto close_run = [&] {
    std::stable_sort(marks.begin(), marks.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& mark : marks) out.append(mark.second);
    marks.clear();
  };
  for (std::int32_t i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    const UChar32 c = text.char32At(i);
    if (!decomposer.getDecomposition(c, parts)) parts.setTo(c);
    for (std::int32_t k = 0; k < parts.length(); k = parts.moveIndex32(k, 1)) {
      const UChar32 part = parts.char32At(k);
      const std::uint8_t combining_class = decomposer.getCombiningClass(part);
      if (combining_class != 0) {
        marks.emplace_back(combining_class, part);
      } else {
        close_run();
        out.append(part);
      }
    }
  }
  close_run();
  return out;
}

const icu::Normalizer2& unfiltered(NormalForm form, UErrorCode& status) {
  switch (form) {
    case NormalForm::nfc:
      return *icu::Normalizer2::getNFCInstance(status);
    case NormalForm::nfd:
      return *icu::Normalizer2::getNFDInstance(status);
    case NormalForm::nfkc:
      return *icu::Normalizer2::getNFKCInstance(status);
    default:
      return *icu::Normalizer2::getNFKDInstance(status);
  }
}

const icu::Normalizer2& instance(NormalForm form) {
  static const auto all = [] {
    UErrorCode status = U_ZERO_ERROR;
    static const icu::UnicodeSet known(u"[:Age=9.0:]", status);
    std::vector<icu::FilteredNormalizer2> made;
    for (int k = 0; k <= static_cast<int>(NormalForm::nfkd); ++k)
      made.emplace_back(unfiltered(static_cast<NormalForm>(k), status), known);
    if (U_FAILURE(status)) fail(Exit::internal, "ICU: {}", u_errorName(status));
    return made;
  }();
  return all[static_cast<std::size_t>(form)];
}

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  constexpr std::int32_t short_text = 4096;  // where the square of the length does no harm
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  icu::UnicodeString wide =
      icu::UnicodeString::fromUTF8({text.data(), static_cast<std::int32_t>(text.size())});
  if (wide.length() > short_text)
    wide = decompose(wide, instance(compatible ? NormalForm::nfkd : NormalForm::nfd));
  UErrorCode status = U_ZERO_ERROR;
  const icu::UnicodeString normal = instance(form).normalize(wide, status);
  if (U_FAILURE(status)) fail(Exit::internal, "ICU: {}", u_errorName(status));
  std::string out;
  return normal.toUTF8String(out);
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text[i]);
    if (length == 1) {
      const char c = text[i];
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    } else {
      icu::UnicodeString::fromUTF8({text.data() + i, static_cast<std::int32_t>(length)})
          .toLower(icu::Locale::getRoot())
          .toUTF8String(out);
    }
    i += length;
  }
  return out;
}

std::vector<std::size_t> grapheme_ends(std::string_view text) {
  std::vector<std::size_t> ends;
  ends.reserve(text.size());
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) {
    for (std::size_t i = 1; i <= text.size(); ++i)
      if (i == text.size() || text[i - 1] != '\r' || text[i] != '\n') ends.push_back(i);
    return ends;
  }
  UErrorCode status = U_ZERO_ERROR;
  thread_local const std::unique_ptr<icu::BreakIterator> cutter(
      icu::BreakIterator::createCharacterInstance(icu::Locale::getRoot(), status));
  UText* opened =
      utext_openUTF8(nullptr, text.data(), static_cast<std::int64_t>(text.size()), &status);
  if (U_SUCCESS(status)) cutter->setText(opened, status);
  if (U_FAILURE(status)) fail(Exit::internal, "ICU: {}", u_errorName(status));
  cutter->first();
  for (std::int32_t end = cutter->next(); end != icu::BreakIterator::DONE; end = cutter->next())
    ends.push_back(static_cast<std::size_t>(end));
  utext_close(opened);
  return ends;
}

namespace {

UChar32 first_character(std::string_view text) {
  UChar32 c = 0;
  std::int32_t at = 0;
  U8_NEXT(reinterpret_cast<const std::uint8_t*>(text.data()), at,
          static_cast<std::int32_t>(std::min<std::size_t>(text.size(), 4)), c);
  return c;
}

std::size_t begin_of_last(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool is_space(UChar32 c) {
  return u_hasBinaryProperty(c, UCHAR_WHITE_SPACE);
}

bool is_word(UChar32 c) {
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

}  // namespace

std::size_t space_at_end(std::string_view text) {
  const std::size_t all = text.size();
  while (!text.empty()) {
    const std::size_t last = begin_of_last(text);
    if (!is_space(first_character(text.substr(last)))) break;
    text = text.substr(0, last);
  }
  return all - text.size();
}

std::size_t space_at_begin(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_space(first_character(text.substr(at))))
    at += utf8_length(text[at]);
  return at;
}

std::string_view trimmed(std::string_view text) {
  text.remove_suffix(space_at_end(text));
  text.remove_prefix(space_at_begin(text));
  return text;
}

bool ends_in_word(std::string_view text) {
  return !text.empty() && is_word(first_character(text.substr(begin_of_last(text))));
}

bool begins_with_word(std::string_view text) {
  return !text.empty() && is_word(first_character(text));
}

}  // namespace strata
