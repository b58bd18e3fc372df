// The grammar of the world's captions.
#include <algorithm>
#include <stdexcept>
#include <utility>

#include "evaluate/world.hpp"

namespace strata::world {
namespace {

using Kind = Fact::Kind;

// Reads a caption word by word; what it cannot read it reports with the word.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text), rest_(text) { advance(); }

  bool accept(std::string_view word) {
    if (word_ != word) return false;
    advance();
    return true;
  }

  void expect(std::string_view word) {
    if (!accept(word)) fail("'" + std::string(word) + "'");
  }

  void expect_end() {
    if (!word_.empty() || !rest_.empty()) fail("the end");
  }

  template <class Enum, class Names>
  std::optional<Enum> accept_name(const Names& names, std::string_view ending = "") {
    for (std::size_t i = 0; i < names.size(); ++i)
      if (accept(std::string(names[i]) + std::string(ending))) return static_cast<Enum>(i);
    return std::nullopt;
  }

  Colour colour() { return require(accept_name<Colour>(colour_names), "a colour"); }
  Shape shape() { return require(accept_name<Shape>(shape_names), "a shape"); }
  Shape shapes() { return require(accept_name<Shape>(shape_names, "s"), "shapes"); }

  Background background() {
    return require(accept_name<Background>(background_names), "a background colour");
  }

  Thing thing() {
    const auto seen = colour();
    return {seen, shape()};
  }

  [[noreturn]] void fail(const std::string& wanted) const {
    throw std::invalid_argument("world: caption '" + std::string(text_) + "': expected " + wanted +
                                " at '" + std::string(word_) + "'");
  }

 private:
  template <class Value>
  Value require(std::optional<Value> value, const char* wanted) {
    if (!value) fail(wanted);
    return *value;
  }

  void advance() {
    const auto space = std::min(rest_.find(' '), rest_.size());
    word_ = rest_.substr(0, space);
    rest_.remove_prefix(std::min(space + 1, rest_.size()));
  }

  std::string_view text_;
  std::string_view rest_;
  std::string_view word_;
};

Fact about(Kind kind, Thing subject, Thing object = {}) {
  return {kind, subject, object, 0, {}};
}
Fact exactly(int number, Thing subject) {
  return {Kind::exactly, subject, {}, number, {}};
}

std::vector<Fact> related(Reader& reader, Kind kind, const Thing& first, bool swapped) {
  reader.expect("a");
  const auto second = reader.thing();
  const auto relation = swapped ? about(kind, second, first) : about(kind, first, second);
  return {exactly(1, first), exactly(1, second), relation};
}

// What follows "a red circle".
std::vector<Fact> about_one(Reader& reader) {
  struct Relation {
    std::string_view word, then;
    Kind kind;
    bool swapped;
  };
  static constexpr Relation relations[]{
      {"left", "of", Kind::left_of, false},    {"right", "of", Kind::left_of, true},
      {"above", "", Kind::above, false},       {"below", "", Kind::above, true},
      {"sits", "on", Kind::sits_on, false},    {"pushes", "", Kind::pushes, false},
      {"bigger", "than", Kind::bigger, false}, {"smaller", "than", Kind::bigger, true}};

  const auto first = reader.thing();
  for (const auto& [word, then, kind, swapped] : relations) {
    if (!reader.accept(word)) continue;
    if (!then.empty()) reader.expect(then);
    return related(reader, kind, first, swapped);
  }
  if (reader.accept("on")) {
    reader.expect("a");
    auto fact = about(Kind::background, first);
    fact.background = reader.background();
    reader.expect("background");
    return {exactly(1, first), fact};
  }
  if (reader.accept("with")) {
    reader.expect("a");
    const auto colour = reader.colour();
    reader.expect("center");
    return {exactly(1, first), about(Kind::center, first, {colour, {}})};
  }
  if (reader.accept("but")) {
    reader.expect("no");
    return {exactly(1, first), about(Kind::without, first, {{}, reader.shape()})};
  }
  reader.fail("what the thing is or does");
}

std::vector<Fact> about_number(Reader& reader, int number) {
  const auto colour = reader.colour();
  const Thing things{colour, reader.shapes()};
  return {about(Kind::some, things), exactly(number, things)};
}

std::vector<Fact> about_two(Reader& reader) {
  const auto shape = reader.shape();
  reader.expect("is");
  const auto first = reader.colour();
  for (const auto* word : {"and", "the", "other", "is"}) reader.expect(word);
  const auto second = reader.colour();
  return {exactly(1, {first, shape}), exactly(1, {second, shape})};
}

std::vector<Fact> about_all(Reader& reader) {
  std::vector<Fact> facts;
  do {
    if (!facts.empty()) reader.expect("all");
    const auto shape = reader.shapes();
    reader.expect("are");
    facts.push_back(about(Kind::all, {reader.colour(), shape}));
  } while (facts.size() < 2 && (reader.expect("and"), true));
  return facts;
}

std::vector<Fact> sentence(Reader& reader) {
  if (reader.accept("two")) return about_number(reader, 2);
  if (reader.accept("three")) return about_number(reader, 3);
  if (reader.accept("four")) return about_number(reader, 4);
  if (reader.accept("one")) return about_two(reader);
  if (reader.accept("all")) return about_all(reader);
  reader.expect("a");
  for (const auto& [word, kind] : {std::pair{"large", Kind::large}, {"small", Kind::small}}) {
    if (!reader.accept(word)) continue;
    const auto thing = reader.thing();
    return {exactly(1, thing), about(kind, thing)};
  }
  return about_one(reader);
}

}  // namespace

std::vector<Fact> parse_caption(std::string_view text) {
  Reader reader(text);
  auto facts = sentence(reader);
  reader.expect_end();
  return facts;
}

}  // namespace strata::world
