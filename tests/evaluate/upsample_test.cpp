// What `strata upsample` makes of its input, with a "model" that answers at once.

#include "evaluate/upsample.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "data/index.hpp"
#include "evaluate/prompts.hpp"
#include "tests/data/temporary_folder.hpp"

namespace strata {
namespace {

using nlohmann::json;

class Upsample : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(dir_ / name).parent_path());
    std::ofstream(dir_ / name, std::ios::binary) << content;
    return dir_ / name;
  }
  /// The lines of the output; the answer to a prompt is " vivid PROMPT\n".
  std::vector<json> run(const UpsampleWork& work, const std::string& out, bool overwrite = false) {
    const auto alone = local_communicator();
    report_ = upsample(*alone, work, {out, "plan", overwrite},
                       [&](const std::vector<std::size_t>& rows, const auto& done) {
                         for (auto row = rows.rbegin(); row != rows.rend(); ++row)
                           done(*row, answer_.empty() ? "" : answer_ + work.prompts[*row] + "\n");
                       });
    std::vector<json> lines;
    std::ifstream file(out);
    for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
    return lines;
  }
  int code_of(const UpsampleWork& work, const std::string& out) {
    try {
      run(work, out);
    } catch (const Error& error) {
      return static_cast<int>(error.code());
    }
    return 0;
  }

  TemporaryFolder dir_;
  std::string answer_ = " vivid ";
  UpsampleReport report_;
};

TEST_F(Upsample, PromptFilesOfAllThreeFormats) {
  const auto lines = run(
      upsample_prompts(write(
          "a.jsonl",
          R"({"id": 3, "prompt": "a cat", "upsampled": "old", "skills": ["counting"], "tag": [1, {}]})"
          "\n"
          R"({"prompt": "a dog", "id": "x/y"})"
          "\n")),
      dir_ / "a.out");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], (json{{"id", "00003"},
                            {"prompt", "a cat"},
                            {"upsampled", "vivid a cat"},
                            {"skills", {"counting"}},
                            {"tag", {1, json::object()}}}));
  EXPECT_EQ(lines[1], (json{{"id", "x/y"}, {"prompt", "a dog"}, {"upsampled", "vivid a dog"}}));
  EXPECT_EQ(report_.made, 2u);

  const auto plain = run(upsample_prompts(write("b.txt", "a cat\na dog")), dir_ / "b.out");
  ASSERT_EQ(plain.size(), 2u);
  EXPECT_EQ(plain[1], (json{{"id", "00001"}, {"prompt", "a dog"}, {"upsampled", "vivid a dog"}}));

  write("c/genai_skills.json", R"({"counting": [1]})");
  const auto bench = run(
      upsample_prompts(write("c/genai_image.json",
                             R"({"00000": {"id": "00000", "prompt": "a cat", "models": {"m": 1}},
          "00001": {"id": "00001", "prompt": "two dogs"}})")),
      dir_ / "c.out");
  ASSERT_EQ(bench.size(), 2u);
  EXPECT_EQ(bench[0], (json{{"id", "00000"},
                            {"prompt", "a cat"},
                            {"upsampled", "vivid a cat"},
                            {"models", {{"m", 1}}}}));
  EXPECT_EQ(bench[1]["skills"], json{"counting"});
  // What comes out is a prompt file with the texts upsampled.
  const PromptSet again = read_prompts(dir_ / "c.out");
  EXPECT_EQ(text_of(again.prompts[1], TextField::upsampled), "vivid two dogs");
}

TEST_F(Upsample, EmptyAnswersAndBlankPromptsStayAsTheyWere) {
  const UpsampleWork work = upsample_prompts(write(
      "a.jsonl", "{\"id\": \"a\", \"prompt\": \"a cat\"}\n{\"id\": \"b\", \"prompt\": \" \"}\n"));
  auto lines = run(work, dir_ / "one");
  EXPECT_EQ(lines[0]["upsampled"], "vivid a cat");
  EXPECT_EQ(lines[1]["upsampled"], " ");
  EXPECT_EQ(report_.made, 1u) << "a blank prompt is not asked about";
  EXPECT_EQ(report_.empty, 1u);
  answer_ = "";
  lines = run(work, dir_ / "two");
  EXPECT_EQ(lines[0]["upsampled"], "a cat");
  EXPECT_EQ(report_.empty, 2u);
}

TEST_F(Upsample, AnIndexKeepsEverythingButItsCaption) {
  write("in/pics/a.png", "the picture");
  const std::string absolute = write("far.png", "far");
  const std::string path = write(
      "in/index.jsonl",
      R"({"image": "pics/a.png", "caption": "a cat", "captions": ["a cat", "one cat"], "extra": {"k": 1}})"
      "\n"
      R"({"image": "t.tar::./m//a.jpg", "caption": "in a tar", "offset": 3, "bytes": 4})"
      "\n"
      R"({"image": ")" +
          absolute +
          R"(", "caption": "far", "captions": ["elsewhere"]})"
          "\n"
          R"({"caption": "no picture"})"
          "\n");
  write("in/t.tar", "xyzJPEG");
  const std::string out = dir_ / "out/deep/index.jsonl";
  std::filesystem::create_directories(dir_ / "out/deep");
  const auto lines = run(upsample_index(path, out), out);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], (json{{"image", "../../in/pics/a.png"},
                            {"caption", "vivid a cat"},
                            {"captions", {"vivid a cat", "a cat", "one cat"}},
                            {"extra", {{"k", 1}}}}));
  EXPECT_EQ(lines[1], (json{{"image", "../../in/t.tar::./m//a.jpg"},
                            {"caption", "vivid in a tar"},
                            {"captions", {"vivid in a tar", "in a tar"}},
                            {"offset", 3},
                            {"bytes", 4}}));
  EXPECT_EQ(lines[2]["image"], absolute);
  EXPECT_EQ(lines[2]["captions"], (json{"vivid far", "far", "elsewhere"}));
  EXPECT_FALSE(lines[3].contains("image"));

  const Index index = Index::load(out);
  EXPECT_EQ(index[0].caption, "vivid a cat");
  EXPECT_EQ(index.read_image(0), "the picture");
  EXPECT_EQ(index.read_image(1), "JPEG");
  EXPECT_EQ(index.read_image(2), "far");
  // Beside the old one nothing is renamed.
  const std::string beside = dir_ / "in/new.jsonl";
  EXPECT_EQ(run(upsample_index(path, beside), beside)[0]["image"], "pics/a.png");
  EXPECT_EQ(Index::load(beside).read_image(1), "JPEG");
}

TEST_F(Upsample, WhatIsThereIsNotLostByAccident) {
  const UpsampleWork work = upsample_prompts(write("a.txt", "a cat\n"));
  EXPECT_EQ(code_of(work, dir_ / "out"), 0);
  const std::string before = read_file(dir_ / "out");
  EXPECT_EQ(code_of(work, dir_ / "out"), 73);
  answer_ = " dull ";
  EXPECT_EQ(code_of(work, dir_ / "out"), 73);
  EXPECT_EQ(read_file(dir_ / "out"), before);
  EXPECT_EQ(run(work, dir_ / "out", true)[0]["upsampled"], "dull a cat");
  EXPECT_FALSE(std::filesystem::exists(dir_ / ".partial"));
  EXPECT_EQ(code_of(work, dir_ / "no/such/folder/out"), 0);
  EXPECT_EQ(code_of(work, "/proc/out"), 73);
}

/// A job that ends after `answers` answers.
void stop_after(std::size_t answers, const UpsampleWork& work, const std::string& out,
                const std::string& plan) {
  const auto alone = local_communicator();
  EXPECT_THROW(upsample(*alone, work, {out, plan, false},
                        [&](const std::vector<std::size_t>& rows, const auto& done) {
                          for (std::size_t i = 0; i < answers; ++i)
                            done(rows[i], "first " + work.prompts[rows[i]]);
                          throw std::runtime_error("stopped");
                        }),
               std::runtime_error);
}

TEST_F(Upsample, AStoppedJobGoesOnWhereItWas) {
  const UpsampleWork work = upsample_prompts(write("a.txt", "a\nb\nc\nd\n"));
  stop_after(2, work, dir_ / "out", "plan");
  stop_after(1, work, dir_ / "out", "plan");
  EXPECT_FALSE(file_exists(dir_ / "out"));
  stop_after(0, work, dir_ / "other", "another plan");  // another output has work of its own
  const auto lines = run(work, dir_ / "out");
  EXPECT_EQ(report_.made, 1u);
  for (std::size_t row = 0; row < 4; ++row)
    EXPECT_EQ(lines[row]["upsampled"], (row < 3 ? "first " : "vivid ") + work.prompts[row]);
  EXPECT_EQ(code_of(work, dir_ / "other"), 73) << "unfinished work of another plan";
  const UpsampleWork changed = upsample_prompts(write("a.txt", "a\nb\nc\nD\n"));
  stop_after(1, changed, dir_ / "third", "plan");
  EXPECT_EQ(code_of(work, dir_ / "third"), 73) << "unfinished work on another file";
  EXPECT_EQ(run(work, dir_ / "third", true)[0]["upsampled"], "vivid a");
}

TEST(Instruct, PutsThePromptWhereItBelongs) {
  EXPECT_EQ(instruct("Write: {prompt}\n", "a cat"), "Write: a cat");
  EXPECT_EQ(instruct("{prompt}! {prompt}?", "a"), "a! a?");
  EXPECT_EQ(instruct("{prompt}", "a"), "a");
  EXPECT_EQ(instruct("Describe it.\n\n", "a {prompt} b"), "Describe it.\n\na {prompt} b");
  EXPECT_EQ(instruct("<{prompt}>", "{prompt}"), "<{prompt}>") << "a prompt is no template";
  const std::string told = instruct(default_instructions(), "seven blue cubes");
  EXPECT_TRUE(told.ends_with("seven blue cubes"));
  EXPECT_EQ(told.find('{'), std::string::npos);
}

}  // namespace
}  // namespace strata
