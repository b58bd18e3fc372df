// Whole jobs to which something happens: a rank that is stopped, killed or crashes, a launcher that
// goes, stops at awkward moments. Clocks are real, limits generous.

#include <gtest/gtest.h>

#include "core/error.hpp"
#include "running_job.hpp"
#include "train/checkpoint.hpp"

namespace strata {
namespace {

class Survival : public testing::Test {
 protected:
  Survival() {
    std::string pattern = testing::TempDir() + "survival-XXXXXX";
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    dir_ = pattern;
    write_tiny_inputs(dir_, 24);
  }
  ~Survival() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
};

const std::vector<std::string> endless{"train.steps=1000000", "train.batch=12",
                                       "train.hang_timeout=2"};

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST_F(Survival, AStoppedRankIsFoundNamedAndEnded) {
  for (const int ranks : {0, 2, 3}) {
    const int victim = std::max(0, ranks - 1);
    RunningJob job(dir_, "stopped-" + std::to_string(ranks), ranks, endless);
    ASSERT_TRUE(job.reaches(5)) << job.said();
    ASSERT_EQ(kill(job.rank_pid(victim), SIGSTOP), 0);
    const double start = now_s();
    EXPECT_EQ(job.ends(20), 86) << job.said();
    EXPECT_LT(now_s() - start, 12);
    EXPECT_TRUE(job.all_gone(5));
    const auto note = job.note();
    EXPECT_EQ(note["code"], 86) << job.said();
    EXPECT_EQ(note["rank"], victim);
    EXPECT_EQ(note["restart"], true);
    const std::string cause = note["cause"];
    EXPECT_NE(cause.find("stopped by a signal"), std::string::npos) << cause;
    EXPECT_NE(cause.find("step "), std::string::npos) << cause;
    EXPECT_EQ(count(job.said(), "strata: error: "), 1) << job.said();
    EXPECT_NE(job.said().find("strata: error: " + cause), std::string::npos) << job.said();
    const auto log = read_file(job.folder().hang_log());
    EXPECT_EQ(count(log, "\n  rank "), std::max(1, ranks)) << log;
  }
}

TEST_F(Survival, ShortStallsAreNoHang) {
  RunningJob job(dir_, "stalls", 2, endless);
  ASSERT_TRUE(job.reaches(5)) << job.said();
  for (int i = 0; i < 4; ++i) {
    const int pid = job.rank_pid(i % 2);
    kill(pid, SIGSTOP);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    kill(pid, SIGCONT);
    ASSERT_TRUE(job.reaches(job.last_step() + 3)) << job.said();
  }
  kill(job.rank_pid(0), SIGUSR1);
  EXPECT_EQ(job.ends(20), 75) << job.said();
  EXPECT_TRUE(job.all_gone(5));
}

TEST_F(Survival, AJobThatSleepsAsAWholeIsNoHang) {
  RunningJob job(dir_, "asleep", 2, endless);
  ASSERT_TRUE(job.reaches(5)) << job.said();
  const auto all = job.processes();
  EXPECT_GE(all.size(), 4u);  // launcher, ranks, monitor
  for (const int pid : all) kill(pid, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(5));
  for (const int pid : all) kill(pid, SIGCONT);
  EXPECT_TRUE(job.reaches(job.last_step() + 10)) << job.said();
}

TEST_F(Survival, AKilledRankEndsAllSoon) {
  RunningJob job(dir_, "killed", 3, endless);
  ASSERT_TRUE(job.reaches(5)) << job.said();
  kill(job.rank_pid(1), SIGKILL);
  EXPECT_EQ(job.ends(10), 137) << job.said();
  EXPECT_TRUE(job.all_gone(5));
  EXPECT_EQ(job.note()["rank"], 1);
  EXPECT_EQ(job.note()["code"], 137);
  EXPECT_EQ(job.note()["restart"], true);
}

TEST_F(Survival, AKilledLauncherLeavesNobodyBehind) {
  RunningJob job(dir_, "orphans", 2, endless);
  ASSERT_TRUE(job.reaches(5)) << job.said();
  std::ifstream file("/proc/" + std::to_string(job.rank_pid(0)) + "/environ");
  const std::string environment((std::istreambuf_iterator<char>(file)), {});
  const auto at = environment.find("PMIX_NAMESPACE=");
  ASSERT_NE(at, std::string::npos);
  const auto segments = fmt::format(".{:x}.", std::stoll(environment.substr(at + 15)));
  const auto left = [&] {
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
      n += entry.path().filename().string().find(segments) != std::string::npos;
    return n;
  };
  EXPECT_EQ(left(), 2);
  kill(job.launcher(), SIGKILL);
  EXPECT_EQ(job.ends(5), 137);
  EXPECT_TRUE(job.all_gone(10));
  EXPECT_EQ(left(), 0);
}

TEST_F(Survival, ACrashSaysWhere) {
  for (const int ranks : {0, 2}) {
    RunningJob job(dir_, "crash-" + std::to_string(ranks), ranks, endless);
    ASSERT_TRUE(job.reaches(5)) << job.said();
    kill(job.rank_pid(std::max(0, ranks - 1)), SIGSEGV);
    EXPECT_EQ(job.ends(15), 70) << job.said();
    EXPECT_TRUE(job.all_gone(5));
    EXPECT_EQ(job.note()["code"], 70);
    EXPECT_EQ(job.note()["rank"], std::max(0, ranks - 1));
    EXPECT_EQ(count(job.said(), "strata: error: rank"), 1) << job.said();
    EXPECT_NE(job.said().find("crashed with SIGSEGV in section "), std::string::npos);
  }
}

TEST_F(Survival, AStopCutsAValidationWhichIsMadeUpForLater) {
  auto overrides = endless;
  overrides.insert(overrides.end(), {"validation.fraction=0.4", "validation.every=3",
                                     "validation.timesteps=1000", "train.hang_timeout=60"});
  {
    RunningJob job(dir_, "cut", 2, overrides);
    ASSERT_TRUE(job.reaches(3)) << job.said();
    kill(job.rank_pid(1), SIGUSR1);
    EXPECT_EQ(job.ends(10), 75) << job.said();
    EXPECT_FALSE(file_exists(job.folder().validation()));
    EXPECT_EQ(list_checkpoints(job.folder().checkpoints()),
              std::vector<std::string>{"step-00000003"});
  }
  overrides.insert(overrides.end(), {"validation.timesteps=2", "train.steps=4"});
  RunningJob job(dir_, "cut", 2, overrides);
  EXPECT_EQ(job.ends(60), 0) << job.said();
  const std::string lines = read_file(job.folder().validation());
  EXPECT_EQ(count(lines, "\"step\":"), 2) << lines;  // 3, and 4 because it is the last
  EXPECT_EQ(lines.find("{\"step\":3,"), 0u) << lines;
}

TEST_F(Survival, AStopIsOneSaveWheneverItComes) {
  const auto asked = [&](const std::string& run, auto&& ask) {
    auto overrides = endless;
    overrides.insert(overrides.end(),
                     {"train.checkpoint_every=3", "validation.fraction=0.3", "validation.every=2"});
    RunningJob job(dir_, run, 2, overrides);
    ask(job);
    EXPECT_EQ(job.ends(30), 75) << run << job.said();
    EXPECT_TRUE(job.all_gone(5));
    EXPECT_EQ(job.note()["code"], 75) << run;
    EXPECT_EQ(count(job.said(), "stopped on request"), 1) << run << job.said();
    // The newest checkpoint is of the step that the note names.
    const auto names = list_checkpoints(job.folder().checkpoints());
    ASSERT_FALSE(names.empty()) << run;
    const std::string cause = job.note()["cause"];
    EXPECT_EQ(std::stoll(names.back().substr(5)), std::stoll(cause.substr(cause.rfind(' '))))
        << run;
  };
  asked("early", [&](RunningJob& job) {  // as soon as the ranks' processes are there
    ASSERT_TRUE(soon([&] { return job.processes().size() >= 3; }, 20));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(job.launcher(), SIGUSR1);
  });
  asked("twice", [&](RunningJob& job) {
    ASSERT_TRUE(job.reaches(4));
    kill(job.rank_pid(0), SIGUSR1);
    kill(job.rank_pid(1), SIGTERM);
  });
  for (int i = 0; i < 4; ++i)
    asked("moment-" + std::to_string(i), [&](RunningJob& job) {
      ASSERT_TRUE(job.reaches(4));
      std::this_thread::sleep_for(std::chrono::milliseconds(7 * i));
      kill(job.rank_pid(i % 2), SIGUSR1);
    });
}

}  // namespace
}  // namespace strata
