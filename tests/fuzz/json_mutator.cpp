// Mutations that leave JSON what it is: a value becomes another of the same input, an extreme one,
// two, or is mutated between its quotes. Half of the mutants of targets that read JSON are made so;
// of libFuzzer's own, which are the other half, nearly all end in the parser.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

struct Range {
  std::size_t begin, end;
};

/// Where values and keys begin.
std::vector<std::size_t> value_begins(std::string_view text) {
  std::vector<std::size_t> begins;
  bool expects = true;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (std::strchr(" \t\r\n", c) != nullptr) continue;
    if (expects && std::strchr("}]:,", c) == nullptr) begins.push_back(i);
    expects = std::strchr("{[:,", c) != nullptr;
    if (c == '"')
      while (++i < text.size() && text[i] != '"')
        if (text[i] == '\\') ++i;
  }
  return begins;
}

/// The value's text from `begin` on: up to its closing quote or bracket, or what follows a number.
Range value_at(std::string_view text, std::size_t begin) {
  int depth = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (depth == 0 && i > begin && std::strchr("}],: \t\r\n", c) != nullptr) return {begin, i};
    if (c == '"')
      while (++i < text.size() && text[i] != '"')
        if (text[i] == '\\') ++i;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth == 0 && (c == '"' || c == '}' || c == ']'))
      return {begin, std::min(i + 1, text.size())};
  }
  return {begin, text.size()};
}

/// `value` as libFuzzer changes it, within its quotes if it has some.
std::string mutated(std::string value, std::size_t more) {
  const std::size_t quote = value.size() >= 2 && value.front() == '"' ? 1 : 0;
  std::string inner = value.substr(quote, value.size() - 2 * quote);
  const std::size_t size = inner.size();
  inner.resize(size + more);
  inner.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(inner.data()), size, inner.size()));
  return value.substr(0, quote) + inner + value.substr(value.size() - quote);
}

constexpr const char* extremes[] = {"null", "true",  "0",
                                    "-1",   "0.5",   "1e400",
                                    "\"\"", "[]",    "{}",
                                    "[0]",  "\"A\"", "9223372036854775807",
                                    "1",    "2",     "18446744073709551616"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  std::minstd_rand draw(seed);
  draw.discard(2);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::vector<std::size_t> begins = value_begins(text);
  if (begins.empty() || draw() % 2 == 0) return LLVMFuzzerMutate(data, size, most);
  const auto any = [&] { return value_at(text, begins[draw() % begins.size()]); };
  const auto text_of = [&](Range range) {
    return std::string(text.substr(range.begin, range.end - range.begin));
  };
  const Range old = any();
  std::string value;
  switch (draw() % 5) {
    case 0:
      value = extremes[draw() % std::size(extremes)];
      break;
    case 1:
      value = text_of(old) + "," + text_of(any());
      break;
    case 2:
      value = mutated(text_of(old), 8);
      break;
    default:
      value = text_of(any());
  }
  std::string out(text);
  out.replace(old.begin, old.end - old.begin, value);
  if (out.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(out.begin(), out.end(), data);
  return out.size();
}
