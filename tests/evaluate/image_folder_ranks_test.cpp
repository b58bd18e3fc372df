// The images folder filled by several ranks, against the one that a single rank fills.

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>

#include "core/file.hpp"
#include "core/stop_signals.hpp"
#include "evaluate/image_folder.hpp"
#include "tests/dist/job.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> contents(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file())
      files[fs::relative(entry.path(), dir).string()] = read_file(entry.path().string());
  return files;
}

TEST(ImageFolderRanks, FilesDoNotDependOnTheRanks) {
  const std::string pid = world().all_gather_strings(std::to_string(::getpid())).front();
  const fs::path dir = fs::temp_directory_path() / ("strata-image-ranks-" + pid);
  PromptSet set;
  for (int i = 0; i < 11; ++i)
    set.prompts.push_back(
        {.id = std::to_string(i), .text = "prompt " + std::to_string(i), .row = i});
  ImageFolderOptions options{.cfg = {7.0, 1.5}, .seed = 3, .images_per_prompt = 2, .batch = 3};
  int made = 0;
  const MakeImages make = [&](std::span<const ImageRequest> requests, double cfg) {
    std::vector<Image> images;
    for (const auto& request : requests) {
      const auto value = static_cast<std::uint8_t>(request.seed * 5 + request.variation + cfg);
      images.push_back({2, 2, std::vector<std::uint8_t>(12, value)});
    }
    made += static_cast<int>(images.size());
    return images;
  };

  options.out = (dir / "ranks").string();
  {
    // A stop on one rank is all ranks' stop; what was made stays made.
    const StopSignals signals;
    const MakeImages stopping = [&](std::span<const ImageRequest> requests, double cfg) {
      if (world().rank() == world().size() - 1) std::raise(SIGUSR1);
      return make(requests, cfg);
    };
    try {
      fill_image_folder(world(), set, options, stopping);
      ADD_FAILURE() << "went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::requeue);
    }
    EXPECT_FALSE(file_exists(options.out + "/cfg-7.0/manifest.jsonl"));
    world().barrier();
  }
  const StopSignals signals;
  const int before = made;
  EXPECT_GE(before, 3);
  EXPECT_LT(fill_image_folder(world(), set, options, make), 44);
  EXPECT_LE(made, 44 / world().size() + 3 * options.batch);
  if (world().rank() == 0) {
    const auto alone = local_communicator();
    options.out = (dir / "alone").string();
    EXPECT_EQ(fill_image_folder(*alone, set, options, make), 44);
    EXPECT_EQ(contents(dir / "ranks"), contents(dir / "alone"));
    EXPECT_EQ(contents(dir / "ranks").size(), 46u);
  }
  world().barrier();
  options.out = (dir / "ranks").string();
  EXPECT_EQ(fill_image_folder(world(), set, options, make), 0);
  if (world().rank() == 0) fs::remove_all(dir);
}

}  // namespace
}  // namespace strata
