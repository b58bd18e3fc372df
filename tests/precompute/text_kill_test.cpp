// A caching run in trouble. kill -9 in the middle, several times: the finished caches have the same
// bytes. A model file cut short under its reader: exit 74 and the file's name.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "core/file.hpp"
#include "tests/data/temporary_folder.hpp"
#include "text_fixture.hpp"

namespace strata {
namespace {

/// Waits until the file is there or the child has ended.
void wait_for(const std::string& file, pid_t child) {
  siginfo_t ended{};
  while (!file_exists(file) && ended.si_pid == 0) {
    waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT);
    usleep(200);
  }
}

// Before any test that starts compute threads in this process: it could not be forked then.
TEST(TextCachesCut, EndWithTheModelFilesName) {
  for (const bool stream : {false, true}) {
    const TemporaryFolder folder;
    write_caption_index(folder.path());
    TextCacheOptions options = text_options(folder.path(), "cut");
    std::filesystem::copy(options.encoder, folder / "model");
    options.encoder = folder / "model";
    options.rows_per_shard = 1;
    options.stream = stream;
    const std::string weights = folder / "model/model.safetensors", err = folder / "stderr";
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const int file = ::open(err.c_str(), O_WRONLY | O_CREAT, 0600);
      dup2(file, STDERR_FILENO);
      cache_text(options, *local_communicator());
      _exit(0);
    }
    wait_for(folder / "cut/last/.partial/shard-00000.h5.json", child);
    ASSERT_EQ(truncate(weights.c_str(), 8192), 0);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 74);
    EXPECT_NE(read_file(err).find("strata: error: " + weights + ": became shorter"),
              std::string::npos)
        << read_file(err);
    EXPECT_FALSE(file_exists(folder / "cut/last/manifest.json"));
  }
}

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
    wait_for(record, child);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  EXPECT_FALSE(file_exists(folder / "killed/norm_avg/manifest.json"))
      << "the kills came too late to mean anything";
  EXPECT_TRUE(cache_text(text_options(folder.path(), "killed"), *alone));
  EXPECT_TRUE(cache_text(text_options(folder.path(), "whole"), *alone));
  EXPECT_EQ(contents_of(folder / "killed"), contents_of(folder / "whole"));
}

}  // namespace
}  // namespace strata
