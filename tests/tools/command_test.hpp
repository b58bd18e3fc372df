#pragma once
// A test that runs the strata executable as a user does, in a folder of its own.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace strata {

struct Outcome {
  int code;
  std::string out;  // stdout and stderr together
};

class CommandTest : public testing::Test {
 protected:
  CommandTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "strata-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
  }
  ~CommandTest() override { std::filesystem::remove_all(folder_); }

  /// `strata eval ARGUMENTS`
  static Outcome eval(const std::string& arguments) { return strata("eval " + arguments); }
  /// `strata ARGUMENTS`, with ranks > 0 under mpirun; for at most two minutes.
  static Outcome strata(const std::string& arguments, int ranks = 0) {
    const std::string launcher =
        ranks > 0 ? fmt::format("'{}/tools/mpirun-test' {} ", STRATA_SOURCE_DIR, ranks) : "";
    const std::string command =
        fmt::format("timeout 120 {}'{}' {} 2>&1", launcher, STRATA_BINARY, arguments);
    std::FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) throw std::runtime_error("popen");
    Outcome run{};
    char part[4096];
    while (const std::size_t n = fread(part, 1, sizeof part, pipe)) run.out.append(part, n);
    const int status = pclose(pipe);
    run.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return run;
  }
  std::string output() const { return folder_ + "/out.safetensors"; }

  std::string folder_;
};

}  // namespace strata
