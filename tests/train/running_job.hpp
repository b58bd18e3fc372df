#pragma once
// `strata train` as a user starts it, so that something can happen to it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/file.hpp"
#include "tiny_run.hpp"

namespace strata {

inline double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Polls until it holds; false after so many seconds.
template <class Condition>
bool soon(Condition&& condition, double seconds) {
  for (const double end = now_s() + seconds; now_s() < end;
       std::this_thread::sleep_for(std::chrono::milliseconds(5)))
    if (condition()) return true;
  return condition();
}

class RunningJob {
 public:
  /// ranks: 0 = without a launcher. dir: holds the inputs of write_tiny_inputs.
  RunningJob(const std::string& dir, const std::string& run, int ranks,
             std::vector<std::string> overrides)
      : folder_{dir + "/" + run}, err_(dir + "/" + run + ".err") {
    std::vector<std::string> command;
    if (ranks > 0)
      command = {std::string(STRATA_SOURCE_DIR) + "/tools/mpirun-test", std::to_string(ranks)};
    const std::string config = dir + "/" + run + ".toml";
    write_file_atomically(config, to_toml(tiny_config(dir, run, std::move(overrides)), false));
    command.insert(command.end(), {STRATA_BINARY, "train", "--config", config});
    pid_ = fork();
    if (pid_ == 0) {
      setpgid(0, 0);
      const int err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(err, STDERR_FILENO);
      dup2(err, STDOUT_FILENO);
      std::vector<char*> arguments;
      for (std::string& word : command) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
  }
  ~RunningJob() {
    if (!code_) {
      for (const int pid : processes()) kill(pid, SIGKILL);
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  RunningJob(const RunningJob&) = delete;
  RunningJob& operator=(const RunningJob&) = delete;

  int launcher() const { return pid_; }
  /// Of a rank, once its log names it.
  int rank_pid(int rank) const {
    std::ifstream log(folder_.log(rank));
    int pid = 0;
    for (std::string line; std::getline(log, line);)
      if (const auto at = line.find(": process "); at != std::string::npos)
        pid = std::atoi(line.c_str() + at + 10);
    return pid;
  }
  bool reaches(std::int64_t step, double seconds = 60) const {
    return soon([&] { return last_step() >= step; }, seconds);
  }
  std::int64_t last_step() const {
    std::ifstream file(folder_.metrics());
    std::int64_t step = 0;
    for (std::string line; std::getline(file, line);) {
      const auto record = nlohmann::json::parse(line, nullptr, false);
      if (!record.is_discarded()) step = record["step"];
    }
    return step;
  }
  /// The exit code, or 128 + signal; nothing when it is still there after so many seconds.
  std::optional<int> ends(double seconds) {
    int status = 0;
    if (!code_ && soon([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, seconds))
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_;
  }
  /// Processes of this run that are left (a process's command line names the run's config).
  std::vector<int> processes() const {
    std::vector<int> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const int pid = std::atoi(entry.path().filename().c_str());
      if (pid == 0) continue;
      std::ifstream file(entry.path() / "cmdline");
      std::string words((std::istreambuf_iterator<char>(file)), {});
      if (words.find(folder_.dir + ".toml") != std::string::npos) found.push_back(pid);
    }
    return found;
  }
  bool all_gone(double seconds) const {
    return soon([&] { return processes().empty(); }, seconds);
  }
  nlohmann::json note() const {
    if (!file_exists(folder_.exit_note())) return {};
    return nlohmann::json::parse(read_file(folder_.exit_note()));
  }
  std::string said() const { return read_file(err_); }
  const RunFolder& folder() const { return folder_; }

 private:
  RunFolder folder_;
  std::string err_;
  int pid_ = 0;
  std::optional<int> code_;
};

}  // namespace strata
