#include "evaluate/image_folder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class ImageFolder : public ::testing::Test {
 protected:
  ImageFolder()
      : dir_(fs::temp_directory_path() / ("strata-images-" + std::to_string(::getpid()))) {
    fs::create_directories(dir_);
    for (int i = 0; i < 5; ++i) {
      const std::string id = i == 3 ? "../escape" : "p" + std::to_string(i);
      set_.prompts.push_back({.id = id, .text = "prompt " + std::to_string(i), .row = i});
    }
    options_.out = (dir_ / "out").string();
    options_.seed = 100;
    options_.images_per_prompt = 2;
    options_.batch = 3;
    options_.checkpoint = "abc";
  }
  ~ImageFolder() override { fs::remove_all(dir_); }

  // A picture whose pixels are a function of the request alone; dies after `limit` images.
  MakeImages maker(int limit = 1000) {
    return [this, limit](std::span<const ImageRequest> requests, double cfg) {
      std::vector<Image> images;
      for (const auto& request : requests) {
        if (made_++ >= limit) throw std::runtime_error("killed");
        const auto value = static_cast<std::uint8_t>(request.seed * 3 + request.variation + cfg);
        images.push_back({2, 2, std::vector<std::uint8_t>(12, value)});
      }
      return images;
    };
  }
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(dir_))
      if (entry.is_regular_file())
        files[fs::relative(entry.path(), dir_).string()] = read_file(entry.path().string());
    return files;
  }
  std::int64_t fill(const MakeImages& make) {
    const auto alone = local_communicator();
    return fill_image_folder(*alone, set_, options_, make);
  }

  fs::path dir_;
  PromptSet set_;
  ImageFolderOptions options_;
  int made_ = 0;
};

TEST_F(ImageFolder, WritesEveryImageAndTheManifest) {
  EXPECT_EQ(fill(maker()), 10);
  const auto files = contents();
  EXPECT_EQ(files.size(), 11u);
  EXPECT_TRUE(files.contains("out/p0.png"));
  EXPECT_TRUE(files.contains("out/p4-1.png"));
  EXPECT_FALSE(fs::exists(dir_ / "escape.png"));
  const auto png = decode_png(files.at("out/p2-1.png"), "p2-1");
  const std::map<std::string, std::string> text(png.text.begin(), png.text.end());
  EXPECT_EQ(text.at("prompt"), "prompt 2");
  EXPECT_EQ(text.at("seed"), "102");
  EXPECT_EQ(text.at("cfg"), "7.0");
  EXPECT_EQ(text.at("steps"), "50");
  EXPECT_EQ(text.at("sampler"), "ddim");
  EXPECT_EQ(text.at("checkpoint"), "abc");
  EXPECT_NE(files.at("out/manifest.jsonl").find("\"seed\":104"), std::string::npos);
}

TEST_F(ImageFolder, AKilledJobEndsByteIdentical) {
  fill(maker());
  const auto whole = contents();
  fs::remove_all(options_.out);
  made_ = 0;
  EXPECT_THROW(fill(maker(7)), std::runtime_error);
  EXPECT_FALSE(fs::exists(options_.out + "/manifest.jsonl"));
  write_file_atomically(options_.out + "/p0.png", whole.at("out/p0.png").substr(0, 60));
  made_ = 0;
  EXPECT_EQ(fill(maker()), 5);  // two batches of three were whole, one of those is damaged now
  EXPECT_EQ(contents(), whole);
  EXPECT_EQ(fill(maker()), 0);
  EXPECT_EQ(contents(), whole);
}

TEST_F(ImageFolder, OtherSettingsAreRefused) {
  fill(maker());
  options_.checkpoint = "def";
  try {
    fill(maker());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::cannot_create);
  }
  options_.overwrite = true;
  EXPECT_EQ(fill(maker()), 10);
}

TEST_F(ImageFolder, SweepHasAFolderForEachGuidance) {
  options_.cfg = {7.0, 5.0, 2.25};
  EXPECT_EQ(fill(maker()), 30);
  const auto files = contents();
  EXPECT_TRUE(files.contains("out/cfg-7.0/p0.png"));
  EXPECT_TRUE(files.contains("out/cfg-5.0/manifest.jsonl"));
  EXPECT_TRUE(files.contains("out/cfg-2.25/p4-1.png"));
}

TEST_F(ImageFolder, APlantedLinkIsReplacedAndNotFollowed) {
  const std::string outside = (dir_ / "outside").string();
  write_file_atomically(outside, "untouched");
  fs::create_directories(options_.out);
  fs::create_symlink(outside, options_.out + "/p0.png");
  fill(maker());
  EXPECT_EQ(read_file(outside), "untouched");
  EXPECT_FALSE(fs::is_symlink(options_.out + "/p0.png"));
}

}  // namespace
}  // namespace strata
