// kill -9 in the middle of a caching run, several times: the finished cache has the same bytes.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "latents_fixture.hpp"
#include "tests/data/temporary_folder.hpp"

namespace strata {
namespace {

TEST(LatentsKilled, ContinueToTheSameBytes) {
  const TemporaryFolder folder;
  write_picture_index(folder.path());
  const auto alone = local_communicator();
  // Children first: a process that has started its compute threads cannot be forked.
  for (int finished = 1; finished <= 2; ++finished) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      cache_latents(latent_options(folder.path(), "killed"), *alone);
      _exit(0);
    }
    const std::string record =
        folder / "killed/.partial/shard-0000" + std::to_string(finished - 1) + ".h5.json";
    int status = 0;
    while (!file_exists(record) && waitpid(child, &status, WNOHANG) == 0) usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  EXPECT_FALSE(file_exists(folder / "killed/manifest.json"))
      << "the kills came too late to mean anything";
  EXPECT_TRUE(cache_latents(latent_options(folder.path(), "killed"), *alone));
  EXPECT_TRUE(cache_latents(latent_options(folder.path(), "whole"), *alone));
  EXPECT_EQ(contents_of(folder / "killed"), contents_of(folder / "whole"));
}

}  // namespace
}  // namespace strata
