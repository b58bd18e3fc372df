#include "evaluate/scores.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"
#include "evaluate/summary.hpp"
#include "evaluate/world_export.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class WorldScores : public ::testing::Test {
 protected:
  WorldScores()
      : dir_((fs::temp_directory_path() / ("strata-scores-" + std::to_string(::getpid())))
                 .string()) {
    fs::create_directories(dir_);
    world::write_prompts({.seed = 3, .count = 150, .evaluation = true}, dir_ + "/prompts.jsonl",
                         dir_ + "/images");
    set_ = read_prompts(dir_ + "/prompts.jsonl");
  }
  ~WorldScores() override { fs::remove_all(dir_); }

  std::vector<ScoreRecord> score(bool mismatched) {
    const auto alone = local_communicator();
    return score_world(*alone, set_, {.images = dir_ + "/images", .mismatched = mismatched});
  }

  std::string dir_;
  PromptSet set_;
};

TEST_F(WorldScores, TrueRendersHoldAndMismatchedOnesDoNot) {
  const auto right = score(false), wrong = score(true);
  ASSERT_EQ(right.size(), 150u);
  ASSERT_EQ(wrong.size(), 150u);
  EXPECT_GE(summarise(right).overall.mean, 0.99);
  EXPECT_LE(summarise(wrong).overall.mean, 0.35);
  const Difference difference = compare(right, wrong);
  EXPECT_GT(difference.overall.low, 0.5);
  EXPECT_EQ(difference.overall.count, 150);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    EXPECT_EQ(wrong[i].id, right[i].id);
    EXPECT_EQ(wrong[i].prompt, right[i].prompt);
    EXPECT_NE(wrong[i].image, right[i].image);
  }
}

TEST_F(WorldScores, LinesRoundTrip) {
  std::string lines;
  const auto records = score(false);
  for (const auto& record : records) lines += to_json_line(record, "world") + "\n";
  write_file_atomically(dir_ + "/scores.jsonl", lines);
  const auto again = read_scores(dir_ + "/scores.jsonl");
  ASSERT_EQ(again.size(), records.size());
  for (std::size_t i = 0; i < again.size(); ++i)
    EXPECT_EQ(to_json_line(again[i], "world"), to_json_line(records[i], "world"));
}

TEST_F(WorldScores, AMissingPictureIsNamed) {
  fs::remove(dir_ + "/images/00007.png");
  try {
    score(false);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("00007"), std::string::npos);
  }
}

TEST(Summary, AverageIsOverPromptsAndImagesOfAPromptCountOnce) {
  const auto record = [](std::string id, std::vector<std::string> skills, double score) {
    return ScoreRecord{.id = std::move(id), .skills = std::move(skills), .score = score};
  };
  const std::vector<ScoreRecord> records{record("a", {"counting", "spatial"}, 1.0),
                                         record("a", {"counting", "spatial"}, 0.0),
                                         record("b", {"counting"}, 0.25), record("c", {}, 0.75)};
  const ScoreSummary summary = summarise(records);
  EXPECT_EQ(summary.images, 4);
  EXPECT_DOUBLE_EQ(summary.overall.mean, 0.5);
  ASSERT_EQ(summary.skills.size(), 2u);
  EXPECT_EQ(summary.skills[0].first, "spatial");
  EXPECT_DOUBLE_EQ(summary.skills[1].second.mean, 0.375);
}

}  // namespace
}  // namespace strata
