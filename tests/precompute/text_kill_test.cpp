// kill -9 in the middle of a caching run, several times: the finished caches have the same bytes.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/data/temporary_folder.hpp"
#include "text_fixture.hpp"

namespace strata {
namespace {

TEST(TextCachesKilled, ContinueToTheSameBytes) {
  const TemporaryFolder folder;
  write_caption_index(folder.path());
  const auto alone = local_communicator();
  // Children first: a process that has started its compute threads cannot be forked.
  for (int finished = 1; finished <= 3; ++finished) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      cache_text(text_options(folder.path(), "killed"), *alone);
      _exit(0);
    }
    // The first of a shard's strategies is there, the last perhaps not.
    const std::string record =
        folder / "killed/last/.partial/shard-0000" + std::to_string(finished - 1) + ".h5.json";
    int status = 0;
    while (!file_exists(record) && waitpid(child, &status, WNOHANG) == 0) usleep(200);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  EXPECT_FALSE(file_exists(folder / "killed/norm_avg/manifest.json"))
      << "the kills came too late to mean anything";
  EXPECT_TRUE(cache_text(text_options(folder.path(), "killed"), *alone));
  EXPECT_TRUE(cache_text(text_options(folder.path(), "whole"), *alone));
  EXPECT_EQ(contents_of(folder / "killed"), contents_of(folder / "whole"));
}

}  // namespace
}  // namespace strata
