#include "evaluate/world.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace strata::world {
namespace {

constexpr std::uint64_t seed = 17;
constexpr std::uint64_t scene_count = 3000;

std::uint64_t fnv1a(std::uint64_t hash, std::string_view bytes) {
  for (const char byte : bytes) hash = (hash ^ static_cast<std::uint8_t>(byte)) * 0x100000001b3u;
  return hash;
}

TEST(World, SameSeedGivesTheSameScenesOnEveryMachine) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto scene = draw_scene(seed, i);
    const auto image = render(scene);
    hash = fnv1a(hash, caption(scene));
    hash = fnv1a(hash, {reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size()});
  }
  EXPECT_EQ(hash, 0x617dfd91ee271ea8u);
}

TEST(World, SeedAndIndexMatter) {
  EXPECT_EQ(draw_scene(1, 5), draw_scene(1, 5));
  EXPECT_NE(render(draw_scene(1, 5)).rgb, render(draw_scene(2, 5)).rgb);
  EXPECT_NE(render(draw_scene(1, 5)).rgb, render(draw_scene(1, 6)).rgb);
}

TEST(World, EverySkillIsDrawnAboutEquallyOften) {
  std::array<int, skill_count> drawn{};
  for (std::uint64_t i = 0; i < scene_count; ++i)
    ++drawn[static_cast<std::size_t>(draw_scene(seed, i).skill)];
  for (const int count : drawn) EXPECT_NEAR(count, 300, 75);
}

TEST(World, WeightsAndBackgroundsAreObeyed) {
  Options options;
  options.weights = {0, 0, 0, 0, 0, 3, 0, 0, 0, 0};
  options.any_background = true;
  std::array<int, background_count> seen{};
  for (std::uint64_t i = 0; i < 300; ++i) {
    const auto scene = draw_scene(seed, i, options);
    EXPECT_EQ(skills(scene), std::vector<std::string>{"counting"});
    ++seen[static_cast<std::size_t>(scene.background)];
  }
  for (const int count : seen) EXPECT_NEAR(count, 100, 40);
  options.weights = {};
  EXPECT_THROW(draw_scene(seed, 0, options), std::invalid_argument);
}

TEST(World, TruePicturesScoreOne) {
  for (const bool any_background : {false, true}) {
    Options options;
    options.any_background = any_background;
    double sum = 0;
    for (std::uint64_t i = 0; i < scene_count; ++i) {
      const auto scene = draw_scene(seed, i, options);
      sum += score(render(scene), caption(scene)).fraction;
    }
    EXPECT_GE(sum / scene_count, 0.99);
  }
}

TEST(World, CaptionsOfOtherPicturesScoreLittleInEverySkill) {
  std::array<double, skill_count> sum{};
  std::array<int, skill_count> count{};
  for (std::uint64_t i = 0; i < scene_count; ++i) {
    const auto scene = draw_scene(seed, i);
    const auto other = draw_scene(seed, i + scene_count);
    const auto skill = static_cast<std::size_t>(other.skill);
    sum[skill] += score(render(scene), caption(other)).fraction;
    ++count[skill];
  }
  for (std::size_t skill = 0; skill < skill_count; ++skill)
    EXPECT_LE(sum[skill] / count[skill], 0.3) << skill_names[skill];
}

TEST(World, AnEmptyPictureMakesNothingTrue) {
  Scene empty;
  for (std::uint64_t i = 0; i < 500; ++i) {
    empty.background = draw_scene(seed, i).background;
    EXPECT_EQ(score(render(empty), caption(draw_scene(seed, i))).fraction, 0);
  }
}

TEST(World, AWrongDetailCostsItsFact) {
  const Object circle{Colour::red, Shape::circle, 8, 16, 6};
  const Object square{Colour::blue, Shape::square, 24, 16, 6};
  const auto image = render({Skill::spatial, Background::white, {circle, square}});
  EXPECT_TRUE(score(image, "a red circle left of a blue square").all_hold);
  EXPECT_NEAR(score(image, "a red circle right of a blue square").fraction, 2.0 / 3, 1e-12);
  EXPECT_NEAR(score(image, "a red circle left of a blue triangle").fraction, 1.0 / 3, 1e-12);
  EXPECT_EQ(score(image, "a red circle but no square").fraction, 0.5);
  EXPECT_TRUE(score(image, "a red circle but no triangle").all_hold);
  EXPECT_EQ(score(image, "two red circles").fraction, 0.5);
}

TEST(World, CaptionsReadBackAsFacts) {
  using Kind = Fact::Kind;
  const Thing red_circle{Colour::red, Shape::circle};
  const Thing blue_square{Colour::blue, Shape::square};
  const Fact one_circle{Kind::exactly, red_circle, {}, 1, {}};
  const Fact one_square{Kind::exactly, blue_square, {}, 1, {}};
  const auto facts = [](std::string_view text) { return parse_caption(text); };
  using Facts = std::vector<Fact>;
  EXPECT_EQ(facts("a large red circle"), (Facts{one_circle, {Kind::large, red_circle, {}, 0, {}}}));
  EXPECT_EQ(facts("a red circle on a black background"),
            (Facts{one_circle, {Kind::background, red_circle, {}, 0, Background::black}}));
  EXPECT_EQ(facts("a red circle right of a blue square"),
            (Facts{one_circle, one_square, {Kind::left_of, blue_square, red_circle, 0, {}}}));
  EXPECT_EQ(facts("three red circles"),
            (Facts{{Kind::some, red_circle, {}, 0, {}}, {Kind::exactly, red_circle, {}, 3, {}}}));
  EXPECT_EQ(facts("all circles are red and all squares are blue"),
            (Facts{{Kind::all, red_circle, {}, 0, {}}, {Kind::all, blue_square, {}, 0, {}}}));
}

TEST(World, EveryDrawnCaptionParses) {
  for (std::uint64_t i = 0; i < scene_count; ++i)
    EXPECT_FALSE(parse_caption(caption(draw_scene(seed, i))).empty());
}

TEST(World, OddCaptionsAreRefusedByName) {
  for (const auto* text :
       {"", " ", "a", "a red", "a red dog", "red circle", "a red circle ", "A red circle",
        "a  red circle but no square", "a red circle", "a red circle left a blue square",
        "two red circle", "five red circles", "one circle is red and the other is pink",
        "all circles are red and", "a large red circle on a white background"})
    EXPECT_THROW(parse_caption(text), std::invalid_argument) << text;
  try {
    parse_caption("a red dog");
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string_view(error.what()).find("dog"), std::string_view::npos);
  }
}

}  // namespace
}  // namespace strata::world
