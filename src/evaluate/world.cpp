// Scenes: how they are drawn from a seed, said and painted.
#include "evaluate/world.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace strata::world {
namespace {

// Splitmix64: the whole state is a counter, so that any scene can be drawn without the ones before.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t index) : state_(mix(seed) ^ mix(~index)) {}

  // Uniform in 0..n-1; the bias of 2^-32 does not matter here.
  int below(int n) {
    state_ += 0x9e3779b97f4a7c15u;
    return static_cast<int>(((mix(state_) >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }

  // Uniform in 0..n-1 without `taken`.
  int other(int n, int taken) { return (taken + 1 + below(n - 1)) % n; }

  int jitter() { return below(3) - 1; }

 private:
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

Colour any_colour(Random& random) {
  return static_cast<Colour>(random.below(colour_count));
}
Shape any_shape(Random& random) {
  return static_cast<Shape>(random.below(shape_count));
}

Colour other_colour(Random& random, Colour taken) {
  return static_cast<Colour>(random.other(colour_count, static_cast<int>(taken)));
}

Shape other_shape(Random& random, Shape taken) {
  return static_cast<Shape>(random.other(shape_count, static_cast<int>(taken)));
}

Object place(Random& random, Colour colour, Shape shape, int x, int y, int radius) {
  return {colour, shape, x + random.jitter(), y + random.jitter(), radius};
}

Object single(Random& random, int radius) {
  const auto colour = any_colour(random);
  return place(random, colour, any_shape(random), 16, 16, radius);
}

// Two looks that differ in colour or in shape, at positions that the caller sets.
std::vector<Object> unlike_pair(Random& random) {
  const int looks = colour_count * shape_count;
  const int first = random.below(looks);
  const int second = random.other(looks, first);
  const auto look = [](int i) {
    return Object{static_cast<Colour>(i / shape_count), static_cast<Shape>(i % shape_count)};
  };
  return {look(first), look(second)};
}

void draw_spatial(Random& random, Scene& scene) {
  scene.variant = random.below(4);  // left of, right of, above, below
  scene.objects = unlike_pair(random);
  for (int i = 0; i < 2; ++i) {
    const int near_or_far = (i == scene.variant % 2) ? 8 : 24;
    const bool sideways = scene.variant < 2;
    auto& object = scene.objects[static_cast<std::size_t>(i)];
    object = place(random, object.colour, object.shape, sideways ? near_or_far : 16,
                   sideways ? 16 : near_or_far, 6);
  }
}

void draw_action(Random& random, Scene& scene) {
  scene.variant = random.below(2);  // sits on, pushes
  const auto colour = any_colour(random);
  const auto second = other_colour(random, colour);
  const int shift = random.jitter();
  for (int i = 0; i < 2; ++i) {
    const int along = (i == 0 ? 9 : 23) + shift;
    scene.objects.push_back({i == 0 ? colour : second, any_shape(random),
                             scene.variant == 0 ? 16 : along, scene.variant == 0 ? along : 16, 7});
  }
}

void draw_part(Random& random, Scene& scene) {
  const auto colour = any_colour(random);
  const auto outer = place(random, colour, any_shape(random), 16, 16, 13);
  const int down = outer.shape == Shape::triangle ? 5 : 0;  // to where a triangle is wide enough
  const auto inner = other_colour(random, colour);
  scene.objects = {outer, {inner, Shape::circle, outer.x, outer.y + down, 5}};
}

void draw_counting(Random& random, Scene& scene) {
  static constexpr int at[3][4][2] = {
      {{8, 8}, {24, 24}}, {{8, 8}, {24, 8}, {16, 24}}, {{8, 8}, {24, 8}, {8, 24}, {24, 24}}};
  scene.variant = random.below(3);  // two, three, four
  const auto colour = any_colour(random);
  const auto shape = any_shape(random);
  for (int i = 0; i < scene.variant + 2; ++i) {
    const auto& [x, y] = at[scene.variant][i];
    scene.objects.push_back(place(random, colour, shape, x, y, 6));
  }
}

void draw_comparison(Random& random, Scene& scene) {
  scene.variant = random.below(2);  // bigger, smaller
  scene.objects = unlike_pair(random);
  const bool mirrored = random.below(2) == 1;
  for (int i = 0; i < 2; ++i) {
    auto& object = scene.objects[static_cast<std::size_t>(i)];
    const int at = i == scene.variant ? 10 : 26;
    object.radius = i == scene.variant ? 9 : 5;
    object.x = mirrored ? canvas - at : at;
    object.y = at;
  }
}

void draw_differentiation(Random& random, Scene& scene) {
  const auto shape = any_shape(random);
  const auto colour = any_colour(random);
  const auto second = other_colour(random, colour);
  scene.objects = {place(random, colour, shape, 8, 16, 6), place(random, second, shape, 24, 16, 6)};
}

void draw_negation(Random& random, Scene& scene) {
  const auto colour = any_colour(random);
  const auto shape = any_shape(random);
  scene.absent = other_shape(random, shape);
  const auto second = other_colour(random, colour);
  const auto beside = other_shape(random, scene.absent);
  scene.objects = {place(random, colour, shape, 8, 8, 6), place(random, second, beside, 24, 24, 6)};
}

void draw_universal(Random& random, Scene& scene) {
  const auto colour = any_colour(random);
  const auto second = other_colour(random, colour);
  const auto shape = any_shape(random);
  const auto below = other_shape(random, shape);
  for (int x : {8, 24}) scene.objects.push_back(place(random, colour, shape, x, 8, 6));
  for (int x : {8, 24}) scene.objects.push_back(place(random, second, below, x, 24, 6));
}

Skill draw_skill(Random& random, const Options& options) {
  const auto total = std::accumulate(options.weights.begin(), options.weights.end(), 0u);
  if (total == 0) throw std::invalid_argument("world: all skill weights are zero");
  auto left = static_cast<unsigned>(random.below(static_cast<int>(total)));
  std::size_t skill = 0;
  while (left >= options.weights[skill]) left -= options.weights[skill++];
  return static_cast<Skill>(skill);
}

std::string name(Colour colour) {
  return std::string(colour_names[static_cast<std::size_t>(colour)]);
}

std::string name(Shape shape) {
  return std::string(shape_names[static_cast<std::size_t>(shape)]);
}

std::string look(const Object& object) {
  return name(object.colour) + " " + name(object.shape);
}

}  // namespace

Rgb Image::at(int x, int y) const {
  const auto i = static_cast<std::size_t>(3 * (y * canvas + x));
  return {rgb[i], rgb[i + 1], rgb[i + 2]};
}

void Image::set(int x, int y, Rgb value) {
  std::copy(value.begin(), value.end(), rgb.begin() + 3 * (y * canvas + x));
}

Scene draw_scene(std::uint64_t seed, std::uint64_t index, const Options& options) {
  Random random(seed, index);
  Scene scene;
  scene.skill = draw_skill(random, options);
  if (options.any_background || scene.skill == Skill::scene)
    scene.background = static_cast<Background>(random.below(background_count));
  switch (scene.skill) {
    case Skill::attribute:
      scene.variant = random.below(2);  // large, small
      scene.objects = {single(random, scene.variant == 0 ? 12 : 6)};
      break;
    case Skill::scene:
      scene.objects = {single(random, 9)};
      break;
    case Skill::spatial:
      draw_spatial(random, scene);
      break;
    case Skill::action:
      draw_action(random, scene);
      break;
    case Skill::part:
      draw_part(random, scene);
      break;
    case Skill::counting:
      draw_counting(random, scene);
      break;
    case Skill::comparison:
      draw_comparison(random, scene);
      break;
    case Skill::differentiation:
      draw_differentiation(random, scene);
      break;
    case Skill::negation:
      draw_negation(random, scene);
      break;
    case Skill::universal:
      draw_universal(random, scene);
      break;
  }
  return scene;
}

std::string caption(const Scene& scene) {
  static constexpr std::string_view sizes[]{"large", "small"};
  static constexpr std::string_view places[]{"left of", "right of", "above", "below"};
  static constexpr std::string_view deeds[]{"sits on", "pushes"};
  static constexpr std::string_view numbers[]{"two", "three", "four"};
  static constexpr std::string_view ratios[]{"bigger than", "smaller than"};

  const auto& first = scene.objects.front();
  const auto& last = scene.objects.back();
  const auto word = [&](const auto& words) { return std::string(words[scene.variant]); };
  const auto pair = [&](const auto& words) {
    return "a " + look(first) + " " + word(words) + " a " + look(last);
  };
  switch (scene.skill) {
    case Skill::attribute:
      return "a " + word(sizes) + " " + look(first);
    case Skill::scene:
      return "a " + look(first) + " on a " +
             std::string(background_names[static_cast<std::size_t>(scene.background)]) +
             " background";
    case Skill::spatial:
      return pair(places);
    case Skill::action:
      return pair(deeds);
    case Skill::part:
      return "a " + look(first) + " with a " + name(last.colour) + " center";
    case Skill::counting:
      return word(numbers) + " " + look(first) + "s";
    case Skill::comparison:
      return pair(ratios);
    case Skill::differentiation:
      return "one " + name(first.shape) + " is " + name(first.colour) + " and the other is " +
             name(last.colour);
    case Skill::negation:
      return "a " + look(first) + " but no " + name(scene.absent);
    case Skill::universal:
      return "all " + name(first.shape) + "s are " + name(first.colour) + " and all " +
             name(last.shape) + "s are " + name(last.colour);
  }
  throw std::invalid_argument("world: unknown skill");
}

std::vector<std::string> skills(const Scene& scene) {
  return {std::string(skill_names[static_cast<std::size_t>(scene.skill)])};
}

// Pixel centres are at odd numbers of half pixels, so that everything stays an integer.
bool covers(Shape shape, int width, int height, int x, int y) {
  if (x < 0 || y < 0 || x >= width || y >= height) return false;
  const int across = std::abs(2 * x + 1 - width);  // from the vertical axis
  const int down = 2 * y + 1;
  switch (shape) {
    case Shape::square:
      return true;
    case Shape::triangle:
      return 2 * height * across <= width * down;
    case Shape::circle: {
      const int up = down - height;
      return across * across * height * height + up * up * width * width <=
             width * width * height * height;
    }
  }
  return false;
}

Image render(const Scene& scene) {
  Image image;
  const auto paint = [&](auto&& inside, Rgb rgb) {
    for (int y = 0; y < canvas; ++y)
      for (int x = 0; x < canvas; ++x)
        if (inside(x, y)) image.set(x, y, rgb);
  };
  paint([](int, int) { return true; }, background_rgb[static_cast<std::size_t>(scene.background)]);
  for (const auto& object : scene.objects) {
    const int side = 2 * object.radius;
    paint(
        [&](int x, int y) {
          return covers(object.shape, side, side, x - object.x + object.radius,
                        y - object.y + object.radius);
        },
        colour_rgb[static_cast<std::size_t>(object.colour)]);
  }
  return image;
}

}  // namespace strata::world
