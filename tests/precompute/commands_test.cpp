// index, cache latents|verify|stats and inspect as a user runs them: exit codes and last lines.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "core/file.hpp"
#include "tests/data/temporary_folder.hpp"

namespace strata {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
  std::string last_line() const {
    const std::string text = err.substr(0, err.find_last_not_of('\n') + 1);
    return text.substr(text.rfind('\n') + 1);
  }
};

class Commands : public testing::Test {
 protected:
  Outcome run(const std::string& arguments) const {
    const std::string out = folder_ / "out", err = folder_ / "err";
    const std::string line = fmt::format("cd {} && {} {} > {} 2> {}", folder_.path(), STRATA_BINARY,
                                         arguments, out, err);
    Outcome outcome;
    outcome.code = WEXITSTATUS(std::system(line.c_str()));
    outcome.out = read_file(out);
    outcome.err = read_file(err);
    return outcome;
  }
  void expect_failure(const std::string& arguments, int code, const std::string& cause) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.err;
    EXPECT_TRUE(outcome.last_line().starts_with("strata: error: ")) << outcome.err;
    EXPECT_NE(outcome.last_line().find(cause), std::string::npos) << outcome.err;
  }
  const std::string source_ = STRATA_SOURCE_DIR;
  TemporaryFolder folder_;
};

TEST_F(Commands, FromPicturesToACheckedCache) {
  std::ofstream(folder_ / "list.jsonl") << "{\"image\": \"rgb.png\", \"caption\": \"a\"}\n"
                                        << "{\"file_name\": \"rgb-420.jpg\", \"text\": \"b\"}\n";
  EXPECT_EQ(run("index --captions list.jsonl --images " + source_ + "/tests/golden/image").code, 0);
  const std::string latents =
      "cache latents --index index.jsonl --out latents --vae " + source_ + "/tests/golden/vae/sd2 ";
  Outcome outcome = run(latents + "--resolution 16");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.empty());
  EXPECT_EQ(run("cache verify latents").code, 0);
  outcome = run("cache stats latents --json");
  EXPECT_NE(outcome.out.find("\"count\":2,"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\"nan\":0,"), std::string::npos);
  outcome = run("inspect latents --json");
  EXPECT_NE(outcome.out.find("\"provenance\":\"resolution=16 "), std::string::npos) << outcome.out;
  outcome = run("inspect latents/shard-00000.h5 --json");
  EXPECT_NE(outcome.out.find("\"crc32c\":{\"type\":\"uint32\",\"shape\":[2],\"offset\":"),
            std::string::npos)
      << outcome.out;
  EXPECT_NE(run("inspect index.jsonl --json").out.find("\"samples\":2,"), std::string::npos);
  EXPECT_NE(run("inspect " + source_ + "/tests/golden/vae/sd2").out.find("\"tensors\""),
            std::string::npos);

  const std::string moments =
      "cache latents --index index.jsonl --out moments --kind moments --vae " + source_ +
      "/tests/golden/vae/sd2 --resolution 16";
  ASSERT_EQ(run(moments).code, 0);
  EXPECT_EQ(run("cache verify moments").code, 0);
  outcome = run("cache stats moments --json");
  EXPECT_NE(outcome.out.find("\"deviations\":{\"mean\":"), std::string::npos) << outcome.out;
  EXPECT_NE(run("cache stats moments").err.find("latent moments cache"), std::string::npos);
  EXPECT_NE(run("inspect moments --json").out.find("\"latent_kind\":\"moments\""),
            std::string::npos);
  expect_failure("cache latents --index index.jsonl --out x --kind median --vae " + source_ +
                     "/tests/golden/vae/sd2",
                 64, "--kind median");

  expect_failure(latents + "--resolution 32", 73, "other settings");
  std::fstream(folder_ / "latents/shard-00000.h5", std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-1, std::ios::end)
      .put('\x2a');
  expect_failure("cache verify latents", 65, "shard-00000.h5: sample 1");
}

TEST_F(Commands, UsageErrorsAre64AndMissingFiles65) {
  expect_failure("index", 64, "no input");
  expect_failure("index --images . --no-such-option 3", 64, "no-such-option");
  expect_failure("index --images nowhere", 65, "nowhere");
  expect_failure("cache latents --index index.jsonl --out x", 64, "--vae");
  const std::string text = "cache text --encoder x --index y --strategy last --out z ";
  expect_failure(text + "--pass-tokens 100", 64, "--pass-tokens is for --stream");
  expect_failure(text + "--stream --pass-tokens 0", 64, "--pass-tokens 0");
  expect_failure("cache stats nowhere", 65, "nowhere/manifest.json");
  expect_failure("cache frobnicate", 64, "frobnicate");
  expect_failure("inspect nowhere", 65, "nowhere");
  for (const char* command : {"index", "cache", "cache latents", "cache text", "cache verify",
                              "cache stats", "inspect"}) {
    const Outcome outcome = run(std::string(command) + " --help");
    EXPECT_EQ(outcome.code, 0);
    EXPECT_NE(outcome.out.find("example:"), std::string::npos) << command;
  }
}

}  // namespace
}  // namespace strata
