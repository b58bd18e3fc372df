#include "evaluate/report.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"
#include "evaluate/base64.hpp"
#include "evaluate/png.hpp"
#include "evaluate/svg.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class StudyReport : public ::testing::Test {
 protected:
  StudyReport()
      : dir_((fs::temp_directory_path() / ("strata-report-" + std::to_string(::getpid())))
                 .string()) {
    fs::create_directories(dir_ + "/images");
    std::string right, wrong;
    for (int i = 0; i < 40; ++i) {
      ScoreRecord record{.id = fmt::format("{:05}", i),
                         .image = fmt::format("{:05}.png", i),
                         .prompt = i == 0 ? "<b>a & b</b>" : "a red circle",
                         .skills = {i % 2 ? "counting" : "spatial"},
                         .score = i % 4 ? 1.0 : 0.5,
                         .all_facts_hold = i % 4 != 0};
      right += to_json_line(record, "world") + "\n";
      record.score = i % 5 ? 0.0 : 0.5;
      record.all_facts_hold = false;
      wrong += to_json_line(record, "world") + "\n";
      write_file_atomically(dir_ + "/images/" + record.image,
                            encode_png({4, 4, std::vector<std::uint8_t>(48, 200)}));
    }
    write_file_atomically(dir_ + "/right.jsonl", right);
    write_file_atomically(dir_ + "/wrong.jsonl", wrong);
    fs::create_directories(dir_ + "/run");
    write_file_atomically(dir_ + "/run/metrics.jsonl",
                          R"({"step": 10, "samples": 160, "loss": 0.9, "images_per_s": 50})"
                          "\n"
                          R"({"step": 20, "samples": 320, "loss": null, "images_per_s": 60})"
                          "\n"
                          R"({"step": 10, "samples": 160, "loss": 0.8, "images_per_s": 70})"
                          "\n{\"step\": 30, \"sam");
    inputs_.title = "A study";
    inputs_.arms = {{.name = "right",
                     .scores = dir_ + "/right.jsonl",
                     .images = dir_ + "/images",
                     .run = dir_ + "/run"},
                    {.name = "wrong & co", .scores = dir_ + "/wrong.jsonl"}};
    inputs_.comparisons = {{"right", "wrong & co"}};
    inputs_.bootstrap.resamples = 500;
  }
  ~StudyReport() override { fs::remove_all(dir_); }

  std::string dir_;
  ReportInputs inputs_;
};

TEST_F(StudyReport, NumbersAreThoseOfTheScores) {
  const Report report = make_report(inputs_);
  ASSERT_EQ(report.arms.size(), 2u);
  EXPECT_DOUBLE_EQ(report.arms[0].summary->overall.mean, 0.875);
  EXPECT_DOUBLE_EQ(report.arms[0].summary->all_facts_hold.mean, 0.75);
  EXPECT_DOUBLE_EQ(report.arms[1].summary->overall.mean, 0.1);
  ASSERT_EQ(report.comparisons.size(), 1u);
  EXPECT_NEAR(report.comparisons[0].difference.overall.mean, 0.775, 1e-12);
  EXPECT_GT(report.comparisons[0].difference.overall.low, 0.6);
  EXPECT_EQ(report.examples.size(), 24u);
}

TEST_F(StudyReport, LaterRecordsHoldAndTornLinesAreLeftOut) {
  const auto curves = read_curves(dir_ + "/run");
  ASSERT_TRUE(curves);
  ASSERT_EQ(curves->loss.size(), 1u);
  EXPECT_EQ(curves->loss[0].x, 10);
  EXPECT_EQ(curves->loss[0].y, 0.8);
  EXPECT_EQ(curves->steps, 20);
  EXPECT_EQ(curves->images_per_s, 65);
  EXPECT_FALSE(read_curves(dir_ + "/images"));
}

TEST_F(StudyReport, PageStandsAloneAndIsReproducible) {
  const std::string page = report_html(make_report(inputs_));
  for (const char* outside : {"http:", "https:", "<script", "<link", "url(", "@import", "file:"})
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  EXPECT_EQ(page.find("<b>a & b"), std::string::npos);
  EXPECT_NE(page.find("&lt;b&gt;a &amp; b&lt;/b&gt;"), std::string::npos);
  EXPECT_NE(page.find("data:image/png;base64,"), std::string::npos);
  EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(report_html(make_report(inputs_)), page);
}

TEST_F(StudyReport, EveryTableIsWritten) {
  write_report(make_report(inputs_), dir_ + "/out");
  EXPECT_NE(read_file(dir_ + "/out/scores.md").find("| average over prompts | 0.875 ["),
            std::string::npos);
  EXPECT_NE(read_file(dir_ + "/out/scores.csv").find("score,right,counting,1,1,1,20"),
            std::string::npos);
  EXPECT_NE(read_file(dir_ + "/out/scores.tex").find("wrong \\& co"), std::string::npos);
  EXPECT_TRUE(file_exists(dir_ + "/out/report.html"));
}

TEST_F(StudyReport, UnknownArmIsAUsageError) {
  inputs_.comparisons = {{"right", "nobody"}};
  try {
    make_report(inputs_);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::usage);
  }
}

// RFC 4648, section 10.
TEST(Base64, RfcVectors) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(Svg, OnePointAndNoPoint) {
  EXPECT_EQ(svg::line_chart({{"a", 0, false, {}}}, "x", "y"), "");
  const std::string chart = svg::line_chart({{"a", 0, false, {{1, 2}}}}, "x", "y");
  EXPECT_EQ(chart.find("nan"), std::string::npos);
  EXPECT_EQ(chart.find("inf"), std::string::npos);
}

}  // namespace
}  // namespace strata
