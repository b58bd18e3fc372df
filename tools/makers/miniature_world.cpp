// The makers' window on the world. `dump SEED N OUT [any]` writes OUT.rgb (N x 32 x 32 x 3 bytes),
// OUT.txt (captions) and OUT.skill, a line a scene, `any` with random backgrounds;
// `score RGB CAPTIONS` prints "fraction all_hold", a line a picture.
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include "evaluate/world.hpp"

namespace world = strata::world;

namespace {

void dump(std::uint64_t seed, std::uint64_t count, const std::string& out, bool any_background) {
  world::Options options;
  options.any_background = any_background;
  std::ofstream pictures(out + ".rgb", std::ios::binary), captions(out + ".txt"),
      skills(out + ".skill");
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto scene = world::draw_scene(seed, i, options);
    const auto image = world::render(scene);
    pictures.write(reinterpret_cast<const char*>(image.rgb.data()), std::ssize(image.rgb));
    captions << world::caption(scene) << '\n';
    skills << world::skills(scene).front() << '\n';
  }
  if (!pictures || !captions || !skills) throw std::runtime_error("cannot write " + out + ".*");
}

void score(const std::string& pictures_path, const std::string& captions_path) {
  std::ifstream pictures(pictures_path, std::ios::binary), captions(captions_path);
  world::Image image;
  for (std::string text; std::getline(captions, text);) {
    if (!pictures.read(reinterpret_cast<char*>(image.rgb.data()), std::ssize(image.rgb)))
      throw std::runtime_error(pictures_path + ": fewer pictures than captions");
    const auto result = world::score(image, text);
    std::cout << result.fraction << ' ' << result.all_hold << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "dump" && argc >= 5)
    dump(std::stoull(argv[2]), std::stoull(argv[3]), argv[4], argc > 5);
  else if (command == "score" && argc == 4)
    score(argv[2], argv[3]);
  else
    throw std::invalid_argument("dump SEED N OUT [any] | score RGB CAPTIONS");
} catch (const std::exception& error) {
  std::cerr << "miniature_world: " << error.what() << '\n';
  return 1;
}
