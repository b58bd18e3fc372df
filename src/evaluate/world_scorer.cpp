// The judge: finds the things in a picture and holds a caption's facts against them.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <span>

#include "evaluate/world.hpp"

namespace strata::world {
namespace {

constexpr int pixels = canvas * canvas;
constexpr int unsure = -2;
constexpr int ground = -1;         // other labels are colours
constexpr int sure_distance = 75;  // in RGB; beyond it an edge's blend may look like another colour
constexpr int least_area = 12;     // smaller specks are not things

using Labels = std::array<int, pixels>;
using Mask = std::array<bool, pixels>;

struct Box {
  int left = canvas, top = canvas, right = 0, bottom = 0;  // right and bottom excluded

  int width() const { return right - left; }
  int height() const { return bottom - top; }
  int x2() const { return left + right; }  // twice the centre
  int y2() const { return top + bottom; }
};

struct Found {
  Colour colour{};
  std::optional<Shape> shape;
  Box box;
  std::optional<Colour> center;
};

struct View {
  Background background{};
  std::vector<Found> things;
};

int distance2(Rgb a, Rgb b) {
  int sum = 0;
  for (std::size_t i = 0; i < 3; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

template <class Palette>
int nearest(const Palette& palette, Rgb rgb) {
  const auto closer = [&](Rgb a, Rgb b) { return distance2(a, rgb) < distance2(b, rgb); };
  return static_cast<int>(std::min_element(palette.begin(), palette.end(), closer) -
                          palette.begin());
}

template <class Visit>
void for_neighbours(int pixel, Visit&& visit) {
  const int x = pixel % canvas;
  if (x > 0) visit(pixel - 1);
  if (x + 1 < canvas) visit(pixel + 1);
  if (pixel >= canvas) visit(pixel - canvas);
  if (pixel + canvas < pixels) visit(pixel + canvas);
}

// The background is what most of the picture's rim is nearest to.
Background find_background(const Image& image) {
  std::array<int, background_count> votes{};
  for (int i = 0; i < canvas; ++i)
    for (const auto& [x, y] : {std::pair{i, 0}, {i, canvas - 1}, {0, i}, {canvas - 1, i}})
      ++votes[static_cast<std::size_t>(nearest(background_rgb, image.at(x, y)))];
  return static_cast<Background>(std::max_element(votes.begin(), votes.end()) - votes.begin());
}

int label(Rgb rgb, Background background) {
  const auto is_sure = [&](Rgb pure) {
    return distance2(rgb, pure) <= sure_distance * sure_distance;
  };
  if (is_sure(background_rgb[static_cast<std::size_t>(background)])) return ground;
  const int colour = nearest(colour_rgb, rgb);
  return is_sure(colour_rgb[static_cast<std::size_t>(colour)]) ? colour : unsure;
}

// Pixels of doubt, the blends on edges, take the label of the nearest pixel without doubt.
Labels label_pixels(const Image& image, Background background) {
  Labels labels;
  std::deque<int> front;
  for (int i = 0; i < pixels; ++i) {
    labels[static_cast<std::size_t>(i)] = label(image.at(i % canvas, i / canvas), background);
    if (labels[static_cast<std::size_t>(i)] != unsure) front.push_back(i);
  }
  for (; !front.empty(); front.pop_front()) {
    const int known = labels[static_cast<std::size_t>(front.front())];
    for_neighbours(front.front(), [&](int next) {
      if (labels[static_cast<std::size_t>(next)] != unsure) return;
      labels[static_cast<std::size_t>(next)] = known;
      front.push_back(next);
    });
  }
  return labels;
}

// The pixels reachable from `start` through pixels for which `belongs` holds.
template <class Belongs>
std::vector<int> flood(int start, Mask& visited, Belongs&& belongs) {
  std::vector<int> reached{start};
  visited[static_cast<std::size_t>(start)] = true;
  for (std::size_t i = 0; i < reached.size(); ++i)
    for_neighbours(reached[i], [&](int next) {
      if (visited[static_cast<std::size_t>(next)] || !belongs(next)) return;
      visited[static_cast<std::size_t>(next)] = true;
      reached.push_back(next);
    });
  return reached;
}

// The component together with what it encloses.
Mask fill_holes(std::span<const int> component) {
  Mask inside{};
  for (const int pixel : component) inside[static_cast<std::size_t>(pixel)] = true;
  Mask outside{};
  for (int i = 0; i < pixels; ++i) {
    const int x = i % canvas, y = i / canvas;
    const bool rim = x == 0 || y == 0 || x == canvas - 1 || y == canvas - 1;
    const auto open = [&](int p) { return !inside[static_cast<std::size_t>(p)]; };
    if (rim && open(i) && !outside[static_cast<std::size_t>(i)]) flood(i, outside, open);
  }
  for (std::size_t i = 0; i < outside.size(); ++i) inside[i] = !outside[i];
  return inside;
}

Box bounds(const Mask& mask) {
  Box box;
  for (int i = 0; i < pixels; ++i) {
    if (!mask[static_cast<std::size_t>(i)]) continue;
    box.left = std::min(box.left, i % canvas);
    box.right = std::max(box.right, i % canvas + 1);
    box.top = std::min(box.top, i / canvas);
    box.bottom = std::max(box.bottom, i / canvas + 1);
  }
  return box;
}

// The shape whose overlap with the mask is best, if it is good.
std::optional<Shape> recognise(const Mask& mask, const Box& box) {
  constexpr double least_overlap = 0.72;
  if (4 * std::abs(box.width() - box.height()) > box.width() + box.height()) return std::nullopt;
  std::optional<Shape> best;
  double best_overlap = least_overlap;
  for (int s = 0; s < shape_count; ++s) {
    int both = 0, either = 0;
    for (int y = 0; y < box.height(); ++y)
      for (int x = 0; x < box.width(); ++x) {
        const bool seen = mask[static_cast<std::size_t>((box.top + y) * canvas + box.left + x)];
        const bool due = covers(static_cast<Shape>(s), box.width(), box.height(), x, y);
        both += seen && due;
        either += seen || due;
      }
    const double overlap = static_cast<double>(both) / either;
    if (overlap <= best_overlap) continue;
    best = static_cast<Shape>(s);
    best_overlap = overlap;
  }
  return best;
}

struct Component {
  Found found;
  int seed = 0;   // one of its pixels
  Mask filled{};  // with what it encloses

  bool encloses(const Component& other) const {
    return this != &other && filled[static_cast<std::size_t>(other.seed)];
  }
};

std::vector<Component> find_components(const Labels& labels) {
  std::vector<Component> components;
  Mask visited{};
  for (int i = 0; i < pixels; ++i) {
    const int colour = labels[static_cast<std::size_t>(i)];
    if (colour < 0 || visited[static_cast<std::size_t>(i)]) continue;
    const auto reached = flood(
        i, visited, [&](int next) { return labels[static_cast<std::size_t>(next)] == colour; });
    if (std::ssize(reached) < least_area) continue;
    const auto filled = fill_holes(reached);
    const auto box = bounds(filled);
    components.push_back(
        {{static_cast<Colour>(colour), recognise(filled, box), box, {}}, i, filled});
  }
  return components;
}

// A thing enclosed in another is that one's center, not a thing of its own.
View look_at(const Image& image) {
  View view;
  view.background = find_background(image);
  const auto components = find_components(label_pixels(image, view.background));
  for (const auto& outer : components) {
    const auto inside_another = [&](const auto& other) { return other.encloses(outer); };
    if (std::any_of(components.begin(), components.end(), inside_another)) continue;
    view.things.push_back(outer.found);
    for (const auto& inner : components)
      if (outer.encloses(inner)) view.things.back().center = inner.found.colour;
  }
  return view;
}

bool fits(const Found& found, const Thing& thing) {
  return (!thing.colour || found.colour == *thing.colour) &&
         (!thing.shape || found.shape == thing.shape);
}

int count(const View& view, const Thing& thing) {
  return static_cast<int>(std::count_if(view.things.begin(), view.things.end(),
                                        [&](const Found& found) { return fits(found, thing); }));
}

const Found* only(const View& view, const Thing& thing) {
  if (count(view, thing) != 1) return nullptr;
  return &*std::find_if(view.things.begin(), view.things.end(),
                        [&](const Found& found) { return fits(found, thing); });
}

bool holds_between(Fact::Kind kind, const Found& a, const Found& b) {
  constexpr int clear = 8;  // half pixels between centres that make a direction
  const int across = b.box.x2() - a.box.x2();
  const int down = b.box.y2() - a.box.y2();
  const auto touch = [](int gap) { return std::abs(gap) <= 2; };
  switch (kind) {
    case Fact::Kind::left_of:
      return across >= clear && across > std::abs(down);
    case Fact::Kind::above:
      return down >= clear && down > std::abs(across);
    case Fact::Kind::sits_on:
      return down > std::abs(across) && touch(b.box.top - a.box.bottom);
    case Fact::Kind::pushes:
      return across > std::abs(down) && touch(b.box.left - a.box.right);
    case Fact::Kind::bigger:
      return 4 * a.box.width() >= 5 * b.box.width();
    default:
      return false;
  }
}

bool holds(const Fact& fact, const View& view) {
  using Kind = Fact::Kind;
  constexpr int large_side = 19, small_side = 15;
  const auto* subject = only(view, fact.subject);
  switch (fact.kind) {
    case Kind::some:
      return count(view, fact.subject) > 0;
    case Kind::exactly:
      return count(view, fact.subject) == fact.number;
    case Kind::large:
      return subject && subject->box.width() >= large_side;
    case Kind::small:
      return subject && subject->box.width() <= small_side;
    case Kind::background:
      return count(view, fact.subject) > 0 && view.background == fact.background;
    case Kind::center:
      return subject && subject->center == fact.object.colour;
    case Kind::without:
      return count(view, fact.subject) > 0 && count(view, fact.object) == 0;
    case Kind::all: {
      const int right = count(view, fact.subject);
      return right > 0 && right == count(view, {{}, fact.subject.shape});
    }
    default:
      break;
  }
  const auto* object = only(view, fact.object);
  return subject && object && holds_between(fact.kind, *subject, *object);
}

}  // namespace

Score score(const Image& image, std::string_view text) {
  const auto facts = parse_caption(text);
  const auto view = look_at(image);
  const auto held = std::count_if(facts.begin(), facts.end(),
                                  [&](const Fact& fact) { return holds(fact, view); });
  return {static_cast<double>(held) / static_cast<double>(facts.size()), held == std::ssize(facts)};
}

}  // namespace strata::world
