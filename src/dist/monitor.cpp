#include "dist/monitor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "core/last_words.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "dist/monitor_process.hpp"
#include "dist/node_memory.hpp"

namespace strata {

namespace {

using activity::Board;

std::int64_t number_in(const char* variable, std::int64_t otherwise) {
  const char* text = std::getenv(variable);
  std::int64_t value = otherwise;
  if (text) std::from_chars(text, text + std::char_traits<char>::length(text), value);
  return value;
}

/// By the launcher's word: MPI cannot be asked before it is initialised.
std::int64_t local_rank_of_launcher() {
  return number_in("OMPI_COMM_WORLD_LOCAL_RANK", number_in("SLURM_LOCALID", 0));
}

bool has_launcher() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK") ||
         std::getenv("SLURM_STEP_ID");
}

Board* map_board(int fd) {
  void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<Board*>(memory);
}

void end_with_hang(int) {
  _exit(static_cast<int>(Exit::hang));
}

/// The process is on its own from here: no descriptor but the pipe's end, no signals.
void become_monitor(int alive) {
  prctl(PR_SET_NAME, "strata-monitor");
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  const int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  dup2(nothing, STDOUT_FILENO);
  for (int fd = STDERR_FILENO + 1; fd < 1024; ++fd)
    if (fd != alive) close(fd);
}

}  // namespace

void remove_launchers_segments() {
  const std::int64_t job = number_in("PMIX_NAMESPACE", 0);
  for (int rank = 0; job > 0 && rank < activity::most_ranks; ++rank)
    unlink(fmt::format("/dev/shm/vader_segment.{}.{}.{:x}.{}", host_name(), geteuid(), job, rank)
               .c_str());
}

int hang_signal() {
  return SIGRTMAX - 3;
}

Monitor::Monitor() {
  std::signal(hang_signal(), end_with_hang);
  activity::begin(static_cast<int>(number_in("OMPI_COMM_WORLD_RANK", number_in("PMIX_RANK", 0))));
  const int launcher = has_launcher() ? getppid() : 0;
  if (local_rank_of_launcher() != 0) {
    // The node's first rank may not have come this far when this one connects to the launcher.
    if (launcher != 0) start([launcher](int alive) { watch_start(launcher, alive); });
    return;
  }
  memory_ = memfd_create("strata-monitor", MFD_CLOEXEC);
  if (memory_ < 0 || ftruncate(memory_, sizeof(Board)) != 0 || !(board_ = map_board(memory_))) {
    log::warn("no monitor: {}", std::strerror(errno));
    board_ = nullptr;
    return;
  }
  new (board_) Board;
  activity::use(*board_, 0);
  start([this, launcher](int alive) { watch_ranks(*board_, launcher, alive); });
}

void Monitor::start(const std::function<void(int alive)>& watch) {
  int pipe_ends[2] = {-1, -1};
  if (pipe2(pipe_ends, O_CLOEXEC) != 0 || (child_ = fork()) < 0) {
    log::warn("no monitor: {}", std::strerror(errno));
    for (const int pipe_end : pipe_ends)
      if (pipe_end >= 0) close(pipe_end);
    return;
  }
  if (child_ == 0) {
    become_monitor(pipe_ends[0]);
    watch(pipe_ends[0]);
  }
  close(pipe_ends[0]);
  alive_ = pipe_ends[1];
}

void Monitor::end() {
  if (child_ <= 0) return;
  if (memory_ < 0) kill(child_, SIGKILL);  // it would take this end for a death
  close(alive_);
  waitpid(child_, nullptr, 0);
  child_ = 0;
}

Monitor::~Monitor() {
  activity::set_life(activity::Life::ended);
  end();
}

void Monitor::join(Communicator& world) {
  activity::begin(world.rank());
  answer_crashes();
  const bool is_leader = memory_ >= 0 && child_ > 0;
  const NodeFile* leader = nullptr;
  int index = 1;
  const auto files = files_of_node(world, is_leader ? memory_ : -1);
  for (const NodeFile& file : files) {
    if (file.fd >= 0 && !leader) leader = &file;
    if (file.rank < world.rank() && file.fd < 0) ++index;
  }
  if (!is_leader && world.size() > 1) {
    const int fd = leader ? leader->reopen() : -1;
    Board* const shared = fd >= 0 && index < activity::most_ranks ? map_board(fd) : nullptr;
    if (fd >= 0) close(fd);
    if (shared)
      activity::use(*(board_ = shared), index);
    else
      log::warn("this rank has no monitor: a hang will not be seen");
  }
  if (!is_leader) end();
  world.barrier();  // the leader's board may not go before the others have opened it
}

void watch_for_hangs(double seconds) {
  activity::board().limit_ms = static_cast<std::int64_t>(seconds * 1000);
}

}  // namespace strata
