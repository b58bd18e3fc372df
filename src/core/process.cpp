#include "core/process.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <fstream>
#include <limits>
#include <sstream>

namespace strata {

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string boot_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

std::string pid_namespace() {
  std::array<char, 64> name{};
  const ssize_t n = readlink("/proc/self/ns/pid", name.data(), name.size());
  return n > 0 ? std::string(name.data(), static_cast<std::size_t>(n)) : "";
}

ProcessState state_of_process(std::int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  // pid (name) state ppid ...: the name may hold anything, so fields count from its last ')'.
  const auto end = line.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream fields(line.substr(end + 1));
  std::string state, skipped;
  fields >> state;
  if (state == "Z" || state == "X") return {};
  constexpr int before_start = 18;  // ppid ... itrealvalue
  for (int i = 0; i < before_start; ++i) fields >> skipped;
  ProcessState process{.goes_on = state == "R" || state == "S"};
  fields >> process.start;
  return process;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

ResidentBytes resident_bytes() {
  ResidentBytes bytes;
  std::ifstream status("/proc/self/status");  // "RssAnon:     1234 kB"
  for (std::string key; status >> key;) {
    std::int64_t* const to = key == "RssAnon:"   ? &bytes.own
                             : key == "RssFile:" ? &bytes.of_files
                                                 : nullptr;
    std::int64_t kilobytes = 0;
    if (to && status >> kilobytes) *to = kilobytes * 1024;
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return bytes;
}

}  // namespace strata
