#include "train/run_lock.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/process.hpp"

namespace strata {
namespace {

using namespace std::chrono_literals;

constexpr LockTiming quick{20ms, 400ms};

class Lock : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "lock-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string epoch_file(int epoch) const {
    return fmt::format("{}/.owner/epoch-{:08}.json", dir_, epoch);
  }
  Exit code_of_taking() const {
    try {
      const RunLock lock(dir_, quick);
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::ok;
  }
  /// A job in a process of its own: takes the lock, says so with a byte, then waits for a signal.
  pid_t start_job() const {
    int said[2];
    EXPECT_EQ(pipe(said), 0);
    const pid_t job = fork();
    if (job == 0) {
      const RunLock lock(dir_, quick);
      (void)!write(said[1], "x", 1);
      for (;;) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(said[0], &byte, 1), 1);
    close(said[0]);
    close(said[1]);
    return job;
  }
  static void end(pid_t job) {
    kill(job, SIGKILL);
    waitpid(job, nullptr, 0);
  }
  /// An owner on a machine that nobody here can ask.
  void write_foreign_owner(int epoch, int beats) const {
    const nlohmann::json owner{{"host", "elsewhere"}, {"boot", "b"},   {"pids", "p"}, {"pid", 7},
                               {"beats", beats},      {"ended", false}};
    std::filesystem::create_directories(dir_ + "/.owner");
    std::ofstream(epoch_file(epoch)) << owner.dump();
  }
  std::string dir_;
};

TEST_F(Lock, EpochsFollowOneAnother) {
  for (int epoch = 1; epoch <= 3; ++epoch) {
    RunLock lock(dir_, quick);
    EXPECT_EQ(lock.epoch(), epoch);
    lock.confirm_now();
    EXPECT_FALSE(file_exists(epoch_file(epoch - 1)));
  }
}

TEST_F(Lock, ALiveOwnerIsNamed) {
  const pid_t job = start_job();
  try {
    const RunLock lock(dir_, quick);
    FAIL() << "two owners";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::owned);
    EXPECT_NE(std::string(error.what()).find(fmt::format("process {} on {}", job, host_name())),
              std::string::npos)
        << error.what();
  }
  end(job);
}

TEST_F(Lock, AnOwnerThatRunsHereIsBelievedWithoutAHeartbeat) {
  const RunLock owner(dir_, {1h, 1h});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THROW(RunLock(dir_, {400ms, 1h}), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST_F(Lock, AKilledOwnerIsReplacedAtOnce) {
  end(start_job());
  const auto start = std::chrono::steady_clock::now();
  const RunLock lock(dir_, {1h, 1h});
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
  EXPECT_EQ(lock.epoch(), 2);
}

TEST_F(Lock, AnotherProcessOfTheSameIdIsNotTheOwner) {
  { const RunLock lock(dir_, quick); }
  auto owner = nlohmann::json::parse(read_file(epoch_file(1)));
  owner["ended"] = false;
  owner["started"] = owner["started"].get<std::uint64_t>() - 1;
  std::ofstream(epoch_file(1)) << owner.dump();
  const RunLock lock(dir_, {1h, 1h});
  EXPECT_EQ(lock.epoch(), 2);
}

TEST_F(Lock, AnEarlierStartOfTheSameSlurmJobIsGone) {
  write_foreign_owner(4, 0);
  auto owner = nlohmann::json::parse(read_file(epoch_file(4)));
  owner["job"] = "12_3";
  owner["restart"] = 1;
  std::ofstream(epoch_file(4)) << owner.dump();
  setenv("SLURM_ARRAY_JOB_ID", "12", 1);
  setenv("SLURM_ARRAY_TASK_ID", "3", 1);
  setenv("SLURM_RESTART_COUNT", "2", 1);
  {
    const RunLock lock(dir_, {1h, 1h});
    EXPECT_EQ(lock.epoch(), 5);
  }
  for (const char* name : {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"})
    unsetenv(name);
}

TEST_F(Lock, AnOwnerElsewhereLivesAsLongAsItsHeartBeats) {
  write_foreign_owner(4, 0);
  std::thread owner([this] {
    std::this_thread::sleep_for(200ms);
    write_foreign_owner(4, 1);
  });
  EXPECT_EQ(code_of_taking(), Exit::owned);
  owner.join();
  const RunLock lock(dir_, quick);  // no more beats: after the lease
  EXPECT_EQ(lock.epoch(), 5);
}

TEST_F(Lock, RubbishIsAnOwnerWithoutHeartbeats) {
  std::filesystem::create_directories(dir_ + "/.owner");
  for (const std::string rubbish : {"", "[", "[1,2]", R"({"pid": "x", "ended": 1})", "\xff\xfe"}) {
    std::filesystem::remove_all(dir_ + "/.owner");
    std::filesystem::create_directories(dir_ + "/.owner");
    std::ofstream(epoch_file(9)) << rubbish;
    const auto start = std::chrono::steady_clock::now();
    const RunLock lock(dir_, quick);
    EXPECT_EQ(lock.epoch(), 10);
    EXPECT_GE(std::chrono::steady_clock::now() - start, quick.lease);
  }
}

TEST_F(Lock, AStoppedOwnerIsFenced) {
  int told[2];
  ASSERT_EQ(pipe(told), 0);
  const pid_t stale = fork();
  if (stale == 0) {
    RunLock lock(dir_, quick);
    (void)!write(told[1], "x", 1);
    try {
      for (;;) {
        lock.confirm();
        std::this_thread::sleep_for(1ms);
      }
    } catch (const Error& error) {
      _exit(static_cast<int>(error.code()));
    }
  }
  char byte = 0;
  ASSERT_EQ(read(told[0], &byte, 1), 1);
  kill(stale, SIGSTOP);
  {
    RunLock lock(dir_, quick);
    EXPECT_EQ(lock.epoch(), 2);
    kill(stale, SIGCONT);
    int status = 0;
    waitpid(stale, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(Exit::owned));
    lock.confirm_now();
  }
  EXPECT_EQ(code_of_taking(), Exit::ok);
}

TEST_F(Lock, OneOfManySimultaneousStartsOwns) {
  for (int round = 0; round < 5; ++round) {
    int held[2];
    ASSERT_EQ(pipe(held), 0);  // jobs that own wait until the pipe is closed
    std::vector<pid_t> jobs;
    for (int i = 0; i < 20; ++i)
      if (jobs.push_back(fork()); jobs.back() == 0) {
        close(held[1]);
        Exit code = Exit::ok;
        try {
          const RunLock lock(dir_, quick);
          char byte = 0;
          (void)!read(held[0], &byte, 1);
        } catch (const Error& error) {
          code = error.code();
        }
        _exit(static_cast<int>(code));
      }
    int owners = 0, refused = 0;
    for (std::size_t ended = 0; ended < jobs.size(); ++ended) {
      if (ended == jobs.size() - 1) close(held[1]);
      int status = 0;
      waitpid(-1, &status, 0);
      (WEXITSTATUS(status) == 0 ? owners : refused) += 1;
    }
    EXPECT_EQ(owners, 1);
    EXPECT_EQ(refused, 19);
    close(held[0]);
  }
}

}  // namespace
}  // namespace strata
