// A rank that fails ends the whole job, soon, with its exit code and one line of cause.

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>

namespace {

struct Outcome {
  int code = -1;
  std::string text;
  double seconds = 0;
  int count(const std::string& what) const {
    int n = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1))
      ++n;
    return n;
  }
};

Outcome run(const std::string& command) {
  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  std::FILE* pipe = popen(("timeout 60 " + command + " 2>&1").c_str(), "r");
  char line[512];
  while (std::fgets(line, sizeof line, pipe)) outcome.text += line;
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

std::string job(int ranks, const std::string& mode) {
  return std::string(STRATA_SOURCE_DIR) + "/tools/mpirun-test " + std::to_string(ranks) + " " +
         FAILING_JOB + " " + mode;
}

TEST(Failure, OfOneRankInTheMiddleOfAStepEndsAllRanks) {
  for (int rank = 0; rank < 3; ++rank) {
    const Outcome outcome = run(job(3, "one " + std::to_string(rank)));
    EXPECT_EQ(outcome.code, 65) << outcome.text;
    EXPECT_EQ(outcome.count("error of rank"), 1) << outcome.text;
    EXPECT_EQ(outcome.count("error of rank " + std::to_string(rank) + ": sample 7 is damaged"), 1)
        << outcome.text;
    EXPECT_LT(outcome.seconds, 30);
  }
}

TEST(Failure, OfAllRanksIsReportedByTheLowest) {
  const Outcome outcome = run(job(4, "all"));
  EXPECT_EQ(outcome.code, 64) << outcome.text;
  EXPECT_EQ(outcome.count("error of rank 0"), 1) << outcome.text;
  EXPECT_EQ(outcome.count("error of rank"), 1) << outcome.text;
}

TEST(Failure, ThatEscapesTheJobDoesNotHang) {
  const Outcome outcome = run(job(3, "escape"));
  EXPECT_EQ(outcome.code, 70) << outcome.text;
  EXPECT_LT(outcome.seconds, 30);
}

TEST(Failure, CallsOutOfOrderAreNamed) {
  const std::pair<std::string, std::string> cases[] = {
      {"leaves-out", "rank 1 is at max number 7"},  // where the others are at sum number 7
      {"swaps", "max number 8 (step 0): rank 1 is at barrier number 8"},
      {"shorter", "max number 8 (step 0): rank 1 does not send the 32 bytes"},
      {"repeats", "sum number 10 (step 0): rank 1 is at barrier number 10"}};
  for (const auto& [how, said] : cases) {
    const Outcome outcome = run(job(3, how));
    EXPECT_EQ(outcome.code, 70) << how << ": " << outcome.text;
    EXPECT_EQ(outcome.count(said), 1) << how << ": " << outcome.text;
    EXPECT_LT(outcome.seconds, 30) << how;
  }
}

// Whichever rank of the node died: the first may not have come to its monitor.
TEST(Failure, ALauncherThatIsStuckBehindItsRanksIsEnded) {
  for (const char* local_rank : {"0", "1"}) {
    const pid_t launcher = fork();
    if (launcher == 0) {
      prctl(PR_SET_NAME, "mpirun");
      if (fork() == 0) {
        setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
        setenv("OMPI_COMM_WORLD_LOCAL_RANK", local_rank, 1);
        execl(FAILING_JOB, FAILING_JOB, "dies", nullptr);
        _exit(1);
      }
      alarm(30);
      for (;;) pause();  // never looks after its rank
    }
    int status = 0;
    ASSERT_EQ(waitpid(launcher, &status, 0), launcher);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << local_rank;
  }
}

TEST(Failure, OfAProcessWithoutLauncher) {
  const Outcome outcome = run(std::string(FAILING_JOB) + " one 0");
  EXPECT_EQ(outcome.code, 65) << outcome.text;
  EXPECT_EQ(outcome.count("error of rank 0"), 1);
}

TEST(Failure, SrunWithoutPmixIsRefused) {
  const Outcome outcome =
      run(std::string("env SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 ") + FAILING_JOB + " all");
  EXPECT_EQ(outcome.code, 69) << outcome.text;
}

}  // namespace
