// A small world of flat-coloured shapes for the miniature study: scenes, their captions in the ten
// skills of GenAI-Bench, their pictures, and a judge that reads a caption and a picture and says
// which facts of the caption hold. All of it is integer arithmetic: a seed gives the same scenes
// and pictures, bit for bit, on every machine.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata::world {

enum class Colour : std::uint8_t { red, green, blue, yellow };
enum class Shape : std::uint8_t { circle, square, triangle };
enum class Background : std::uint8_t { white, gray, black };
enum class Skill : std::uint8_t {
  attribute,
  scene,
  spatial,
  action,
  part,
  counting,
  comparison,
  differentiation,
  negation,
  universal
};

constexpr int colour_count = 4;
constexpr int shape_count = 3;
constexpr int background_count = 3;
constexpr int skill_count = 10;
constexpr int canvas = 32;  // pixels a side

constexpr std::array<std::string_view, colour_count> colour_names{"red", "green", "blue", "yellow"};
constexpr std::array<std::string_view, shape_count> shape_names{"circle", "square", "triangle"};
constexpr std::array<std::string_view, background_count> background_names{"white", "gray", "black"};
constexpr std::array<std::string_view, skill_count> skill_names{
    "attribute", "scene",      "spatial",         "action",   "part",
    "counting",  "comparison", "differentiation", "negation", "universal"};

using Rgb = std::array<std::uint8_t, 3>;
constexpr std::array<Rgb, colour_count> colour_rgb{
    {{230, 30, 30}, {30, 170, 50}, {40, 60, 220}, {250, 210, 20}}};
constexpr std::array<Rgb, background_count> background_rgb{
    {{250, 250, 250}, {128, 128, 128}, {12, 12, 12}}};

// An RGB picture, rows from the top, 0..255.
struct Image {
  std::array<std::uint8_t, canvas * canvas * 3> rgb{};

  Rgb at(int x, int y) const;
  void set(int x, int y, Rgb value);
};

// A shape whose bounding box is [x - radius, x + radius) by [y - radius, y + radius), in pixels.
struct Object {
  Colour colour{};
  Shape shape{};
  int x = 0;
  int y = 0;
  int radius = 0;

  bool operator==(const Object&) const = default;
};

// A picture in words and numbers. `objects` are in the order in which the caption names them, later
// ones painted over earlier ones; `variant` picks the wording within the skill.
struct Scene {
  Skill skill{};
  Background background{};
  std::vector<Object> objects;
  int variant = 0;
  Shape absent{};  // negation only: the shape that the caption rules out

  bool operator==(const Scene&) const = default;
};

// How scenes are drawn. `weights`: odds of each skill, in the order of Skill, not all zero.
// `any_background`: also captions that do not name a background get a random one, which a VAE needs
// to see; without it they are white.
struct Options {
  std::array<unsigned, skill_count> weights{1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  bool any_background = false;
};

// The scene number `index` of the stream `seed`; neighbours are independent of each other.
// Throws std::invalid_argument if all weights are zero.
Scene draw_scene(std::uint64_t seed, std::uint64_t index, const Options& options = {});

// One line of English, lower case, no punctuation.
std::string caption(const Scene& scene);

// The names of the skills that the caption tests.
std::vector<std::string> skills(const Scene& scene);

Image render(const Scene& scene);

// What a caption speaks of; an empty field means any.
struct Thing {
  std::optional<Colour> colour;
  std::optional<Shape> shape;

  bool operator==(const Thing&) const = default;
};

// One statement that a picture can make true. No statement is true for want of its subject: "no
// square" beside a red circle holds only where there is a red circle.
struct Fact {
  enum class Kind : std::uint8_t {
    some,        // at least one subject
    exactly,     // `number` subjects
    large,       // the only subject is large
    small,       // the only subject is small
    background,  // there is a subject, on `background`
    left_of,     // the only subject is left of the only object; and so on
    above,
    sits_on,
    pushes,
    bigger,
    center,   // the only subject has a dot of object.colour in it
    without,  // there is a subject and no object
    all       // there are things of subject.shape, and all are of subject.colour
  };

  Kind kind{};
  Thing subject;
  Thing object;
  int number = 0;
  Background background{};

  bool operator==(const Fact&) const = default;
};

// The facts that a caption states. Throws std::invalid_argument, naming the word, if the text is
// not one of this world's captions.
std::vector<Fact> parse_caption(std::string_view text);

struct Score {
  double fraction = 0;  // facts that hold, 0..1
  bool all_hold = false;
};

// Judges a picture by a caption's text alone. Throws as parse_caption does.
Score score(const Image& image, std::string_view text);

// Whether a pixel belongs to a shape that fills the box [0, width) x [0, height).
bool covers(Shape shape, int width, int height, int x, int y);

}  // namespace strata::world
