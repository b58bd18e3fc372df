#include "evaluate/prompts.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class Prompts : public ::testing::Test {
 protected:
  Prompts() : dir_(fs::temp_directory_path() / ("strata-prompts-" + std::to_string(::getpid()))) {
    fs::create_directories(dir_);
  }
  ~Prompts() override { fs::remove_all(dir_); }

  std::string write(const std::string& name, const std::string& content) const {
    write_file_atomically((dir_ / name).string(), content);
    return (dir_ / name).string();
  }
  // The message of the Error(65) that reading `content` gives.
  std::string refusal(const std::string& content) const {
    try {
      read_prompts(write("bad", content));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
      return error.what();
    }
    return "accepted";
  }

  fs::path dir_;
};

TEST_F(Prompts, JsonLines) {
  const auto set = read_prompts(write(
      "a.jsonl", R"({"id": "00000", "prompt": "a red circle", "skills": ["attribute"]})"
                 "\r\n"
                 R"({"id": "x-1", "prompt": "b", "upsampled": "b, in detail", "skills": []})"));
  ASSERT_EQ(set.prompts.size(), 2u);
  EXPECT_EQ(set.prompts[0].text, "a red circle");
  EXPECT_EQ(set.prompts[0].skills, std::vector<std::string>{"attribute"});
  EXPECT_EQ(set.prompts[1].id, "x-1");
  EXPECT_EQ(set.prompts[1].row, 1);
  EXPECT_EQ(text_of(set.prompts[1], TextField::upsampled), "b, in detail");
  EXPECT_THROW(text_of(set.prompts[0], TextField::upsampled), Error);
}

TEST_F(Prompts, OneJsonLineIsALineAndNotABenchmark) {
  const auto set = read_prompts(write("a.jsonl", R"({"id": "7", "prompt": "a"})"
                                                 "\n"));
  ASSERT_EQ(set.prompts.size(), 1u);
  EXPECT_EQ(set.prompts[0].id, "7");
}

TEST_F(Prompts, PlainText) {
  const auto set = read_prompts(write("a.txt", "a red circle\ncaf\xC3\xA9\n"));
  ASSERT_EQ(set.prompts.size(), 2u);
  EXPECT_EQ(set.prompts[1].id, "00001");
  EXPECT_EQ(set.prompts[1].text, "caf\xC3\xA9");
}

TEST_F(Prompts, GenAiBench) {
  for (const char* line_break : {"\n", ""}) {
    const std::string n = line_break;
    write("genai_skills.json", R"({"counting": [1], "basic": [0], "attribute": [0, 1]})");
    const auto set =
        read_prompts(write("genai_image.json",
                           "{" + n + R"("00000": {"prompt": "a", "models": {"SDXL": [5, 4, 4]}},)" +
                               n + R"("00001": {"prompt": "b"}})"));
    ASSERT_EQ(set.prompts.size(), 2u);
    EXPECT_EQ(set.prompts[1].id, "00001");
    EXPECT_EQ(set.prompts[1].skills, (std::vector<std::string>{"attribute", "counting"}));
    EXPECT_EQ(set.prompts[0].skills, (std::vector<std::string>{"attribute", "basic"}));
  }
}

TEST_F(Prompts, HostileFiles) {
  EXPECT_NE(refusal("").find("no prompt"), std::string::npos);
  EXPECT_NE(refusal("{\"id\": \"a\"}\n").find("prompt"), std::string::npos);
  EXPECT_NE(refusal("{\"id\": \"a\", \"prompt\": 3}\n").find("not a string"), std::string::npos);
  EXPECT_NE(refusal("{\"prompt\": \"a\"}\n{\"id\": \"a\"}\n").find("\"id\""), std::string::npos);
  EXPECT_NE(refusal("{\"id\": \"a\", \"prompt\": \"b\"}\n{\"id\": \"a\", \"prompt\": \"c\"}\n")
                .find("twice"),
            std::string::npos);
  EXPECT_NE(refusal("fine\n\xFF\n").find(":2"), std::string::npos);
  EXPECT_NE(refusal("fine\n\xED\xA0\x80\n").find("UTF-8"), std::string::npos);
  EXPECT_NE(refusal(std::string(2 << 20, 'a')).find("bytes"), std::string::npos);
  EXPECT_NE(refusal("{\"id\": \"a\", \"prompt\": \"b\", \"x\": " + std::string(100000, '[')),
            "accepted");
}

TEST(ImageFileName, StaysInTheFolder) {
  EXPECT_EQ(image_file_name("00042", 0), "00042.png");
  EXPECT_EQ(image_file_name("00042", 3), "00042-3.png");
  EXPECT_EQ(image_file_name("-rf", 0), "-rf.png");
  const std::string empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.png";
  EXPECT_EQ(image_file_name("", 0), empty);
  EXPECT_EQ(image_file_name(std::string(64, 'a'), 0), std::string(64, 'a') + ".png");
  for (const std::string& id :
       {std::string("../../x"), std::string("/etc/x"), std::string("a/../b"), std::string(".."),
        std::string("."), std::string(300, 'a'), std::string("\0", 1), std::string("a/b"),
        std::string("caf\xC3\xA9"), std::string(65, 'a')}) {
    const std::string name = image_file_name(id, 0);
    EXPECT_EQ(name.size(), 68u) << name;
    EXPECT_EQ(name.find_first_not_of("0123456789abcdef"), 64u) << name;
  }
}

TEST(ImageFileName, TwoImagesNeverShareAName) {
  PromptSet set;
  set.prompts = {{.id = "a", .text = "x"}, {.id = "a-1", .text = "y"}};
  EXPECT_EQ(image_file_names(set, 1), (std::vector<std::string>{"a.png", "a-1.png"}));
  EXPECT_THROW(image_file_names(set, 2), Error);
}

}  // namespace
}  // namespace strata
