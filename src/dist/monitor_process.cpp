// The monitor's own process. It was forked before anything else ran, so nothing here may rely on
// threads, MPI or what a rank has set up since; its loop takes no locks and allocates nothing.

#include "dist/monitor_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstring>

#include "core/last_words.hpp"
#include "dist/monitor.hpp"

namespace strata {

namespace {

using namespace activity;

constexpr std::int64_t interval_ms = 250;
constexpr std::int64_t launcher_has_ms = 3000;  // to end the others when one rank is gone
constexpr std::int64_t failing_has_ms = 9000;   // to end the job after an error
constexpr std::int64_t last_ms = 2000;          // to answer the signal that ends with 86
constexpr int slow_factor = 10, longest_factor = 5;
constexpr int killed = 128 + SIGKILL;  // what a shell says of a process that was killed

/// What the system says of a process.
struct Process {
  char state = 'X';  // R, S, D, T (stopped), t (traced), Z; X: there is none
  int parent = 0;
  bool is_gone() const { return state == 'Z' || state == 'X'; }
};

/// The beginning of a file below /proc/PID/; null where it cannot be read.
template <std::size_t size>
std::string_view read_proc(char (&text)[size], int pid, std::string_view name) {
  FixedText path;
  path.add("/proc/").add(pid).add("/").add(name).add(std::string_view("\0", 1));
  const int fd = open(path.view().data(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  const ssize_t n = read(fd, text, size);
  close(fd);
  return {text, static_cast<std::size_t>(std::max<ssize_t>(n, 0))};
}

Process process_of(int pid) {
  char text[512];
  // pid (name) state ppid ...: the name may hold anything.
  const std::string_view line = read_proc(text, pid, "stat");
  const auto after = line.rfind(')');
  if (after == std::string_view::npos || after + 4 >= line.size()) return {};
  Process process{line[after + 2]};
  std::from_chars(line.data() + after + 4, line.data() + line.size(), process.parent);
  return process;
}

std::int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1'000'000;
}

/// What the monitor remembers of a rank.
struct Watched {
  Process process;
  std::uint64_t progress = 0;
  Section section = Section::start;
  std::int64_t silent_ms = 0;
  std::array<std::int64_t, sections> longest_ms{};
};

class Watch {
 public:
  Watch(Board& board, int launcher) : board_(board), launcher_(launcher) {}
  /// elapsed: since the last look. Returns when there is something left to look at.
  bool look(std::int64_t elapsed_ms);
  bool leader_ended() const { return board_.slots[0].life == Life::ended; }

 private:
  bool is_live(int i) const {
    const Life life = board_.slots[i].life;
    return (life == Life::running || life == Life::failing) && !watched_[i].process.is_gone();
  }
  template <class Body>
  void each_live(Body&& body) {
    for (int i = 0; i < most_ranks; ++i)
      if (is_live(i)) body(board_.slots[i], watched_[i]);
  }
  void update(const Slot& slot, Watched& w, std::int64_t elapsed_ms);
  std::int64_t limit_ms(int i) const;
  int hung() const;
  void end_after_a_death();
  void end_after_hang(int culprit);
  void describe(FixedText& text, int i) const;
  void write_log(std::string_view cause) const;
  void signal_all(int signal);

  Board& board_;
  const int launcher_;
  Watched watched_[most_ranks];
  std::int64_t ending_ms_ = 0;  // until ranks that are left are killed; 0: nothing is wrong
};

void Watch::update(const Slot& slot, Watched& w, std::int64_t elapsed_ms) {
  const auto progress = slot.progress();
  const bool is_traced = w.process.state == 't';  // a debugger has it
  if (progress == w.progress && !is_traced) {
    w.silent_ms += elapsed_ms;
    return;
  }
  auto& longest = w.longest_ms[static_cast<int>(w.section)];
  longest = std::max(longest, w.silent_ms);
  w.silent_ms = 0;
  w.progress = progress;
  w.section = slot.section;
}

std::int64_t Watch::limit_ms(int i) const {
  const std::int64_t limit = board_.limit_ms;
  const Watched& w = watched_[i];
  if (is_slow(w.section) || board_.slots[i].steps <= 1) return slow_factor * limit;
  return std::max(limit, longest_factor * w.longest_ms[static_cast<int>(w.section)]);
}

/// The rank to blame, or -1. A rank that waits in a collective is not, unless all do: those who
/// wait for another node have half as long again, so that its monitor speaks first.
int Watch::hung() const {
  if (board_.limit_ms == 0) return -1;
  int worst = -1, least = -1;
  bool all_wait = true;
  std::uint64_t fewest = 0;
  for (int i = 0; i < most_ranks; ++i) {
    if (!is_live(i)) continue;
    const Slot& slot = board_.slots[i];
    const Watched& w = watched_[i];
    const auto& main = slot.channels[static_cast<int>(Thread::main)];
    const bool is_stopped = w.process.state == 'T';
    if (is_stopped || main.waits_in == Collective::none) {
      all_wait = false;
      if (w.silent_ms > limit_ms(i) &&
          (worst < 0 || is_stopped || w.silent_ms > watched_[worst].silent_ms))
        worst = i;
      continue;
    }
    all_wait = all_wait && w.silent_ms > limit_ms(i) * 3 / 2 + 5000;
    std::uint64_t begun = 0;
    for (const auto& channel : slot.channels) begun += channel.collective;
    if (least < 0 || begun < fewest) {
      least = i;
      fewest = begun;
    }
  }
  return worst >= 0 ? worst : all_wait ? least : -1;
}

void Watch::describe(FixedText& text, int i) const {
  const Slot& slot = board_.slots[i];
  text.add("section ").add(name_of(slot.section.load())).add(", step ").add(slot.step.load());
  bool waits = false;
  for (const Thread thread : {Thread::main, Thread::gradients, Thread::checkpoint}) {
    const auto& channel = slot.channels[static_cast<int>(thread)];
    const Collective collective = channel.waits_in;
    if (collective == Collective::none || collective == Collective::thread) continue;
    waits = true;
    text.add(thread == Thread::main        ? ", collective "
             : thread == Thread::gradients ? ", collective of gradients "
                                           : ", collective of the checkpoint ");
    text.add(name_of(collective)).add(" number ");
    text.add(static_cast<std::int64_t>(channel.collective.load()));
  }
  if (!waits) text.add(", in no collective");
  if (watched_[i].process.state == 'T') text.add(", stopped by a signal");
}

void Watch::write_log(std::string_view cause) const {
  const int fd =
      board_.has_paths
          ? open(board_.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666)
          : -1;
  if (fd < 0) return;
  const auto write_line = [&](std::string_view text) {
    return ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  };
  write_line(FixedText().add(cause).add("\n").view());
  for (int i = 0; i < most_ranks; ++i) {
    if (board_.slots[i].life == Life::absent) continue;
    FixedText line;
    line.add("  rank ").add(board_.slots[i].rank.load()).add(", process ");
    line.add(board_.slots[i].pid.load()).add(" (");
    line.add(std::string_view(&watched_[i].process.state, 1)).add("), silent for ");
    line.add(watched_[i].silent_ms).add(" ms: ");
    describe(line, i);
    if (!write_line(line.add("\n").view())) break;
  }
  fsync(fd);
  close(fd);
}

void Watch::signal_all(int signal) {
  each_live([&](const Slot& slot, const Watched&) { kill(slot.pid, signal); });
}

void Watch::end_after_hang(int culprit) {
  FixedText cause;
  cause.add("rank ").add(board_.slots[culprit].rank.load()).add(": hangs: no sign of life for ");
  cause.add(watched_[culprit].silent_ms / 1000).add(" s in ");
  describe(cause, culprit);
  write_log(cause.view());
  say_last_words(static_cast<int>(Exit::hang), board_.slots[culprit].rank, cause.view(), true);
  signal_all(hang_signal());
  signal_all(SIGCONT);  // who is stopped answers too
  ending_ms_ = last_ms;
}

/// A rank that is gone without a word, or one whose launcher is.
void Watch::end_after_a_death() {
  for (int i = 0; i < most_ranks; ++i) {
    const Slot& slot = board_.slots[i];
    if (slot.life != Life::running) continue;
    FixedText cause;
    const bool orphaned = !watched_[i].process.is_gone();
    if (orphaned && (launcher_ == 0 || watched_[i].process.parent == launcher_)) continue;
    if (orphaned)
      cause.add("rank ").add(slot.rank.load()).add(": the launcher is gone; ");
    else
      cause.add("rank ").add(slot.rank.load()).add(": killed, or ended without a word; ");
    describe(cause, i);
    if (board_.has_paths && access(board_.note, F_OK) != 0) {
      write_log(cause.view());
      say_last_words(killed, slot.rank, cause.view(), true);
    }
    if (orphaned) signal_all(SIGKILL);
    ending_ms_ = launcher_has_ms;
    return;
  }
}

bool Watch::look(std::int64_t elapsed_ms) {
  bool is_failing = false, anyone = false;
  for (int i = 0; i < most_ranks; ++i) {
    Slot& slot = board_.slots[i];
    if (slot.life == Life::absent || slot.life == Life::ended) continue;
    watched_[i].process = process_of(slot.pid);
    is_failing = is_failing || slot.life == Life::failing;
    if (!is_live(i)) continue;
    anyone = true;
    update(slot, watched_[i], elapsed_ms);
  }
  if (ending_ms_ > 0) {
    ending_ms_ -= elapsed_ms;
    if (ending_ms_ <= 0) signal_all(SIGKILL);
    return anyone && ending_ms_ > 0;
  }
  if (is_failing)
    ending_ms_ = failing_has_ms;
  else
    end_after_a_death();
  if (!anyone) return false;
  if (const int culprit = ending_ms_ > 0 ? -1 : hung(); culprit >= 0) end_after_hang(culprit);
  return true;
}

bool is_mpirun(int pid) {
  char text[32];
  const std::string_view name = read_proc(text, pid, "comm");
  return name.starts_with("mpirun") || name.starts_with("mpiexec") || name.starts_with("orterun");
}

/// Also where the system does not say.
bool has_children(int pid) {
  FixedText name;
  name.add("task/").add(pid).add("/children");
  char text[4096];
  const std::string_view list = read_proc(text, pid, name.view());
  if (list.data() == nullptr) return true;
  const char* const end = list.data() + list.size();
  for (const char* at = list.data(); at < end; ++at) {
    int child = 0;
    at = std::from_chars(at, end, child).ptr;
    if (child > 0 && !process_of(child).is_gone()) return true;
  }
  return false;
}

/// Where a rank dies while it connects to mpirun, mpirun (Open MPI 4.1.4 with PMIx 4.2) may wait
/// for ever at its own end, for a lock of a thread that it has stopped. So it is ended when it has
/// been without children for a while.
void end_stuck_launcher(int launcher) {
  constexpr std::int64_t alone_ms = 3000, most_ms = 30'000;
  std::int64_t alone = 0;
  for (std::int64_t waited = 0; waited < most_ms; waited += interval_ms) {
    if (process_of(launcher).is_gone()) return remove_launchers_segments();
    if (!is_mpirun(launcher)) return;
    alone = has_children(launcher) ? 0 : alone + interval_ms;
    if (alone > alone_ms) kill(launcher, SIGKILL);
    poll(nullptr, 0, static_cast<int>(interval_ms));
  }
}

}  // namespace

void watch_ranks(Board& board, int launcher, int alive) {
  static Watch watch(board, launcher);
  pollfd end{alive, 0, 0};
  for (std::int64_t before = now_ms();;) {
    poll(&end, 1, static_cast<int>(interval_ms));
    if (end.revents != 0) {
      if (watch.leader_ended()) _exit(0);
      end = {-1, 0, 0};
    }
    // Where this process was stopped or slept with the machine, so may the ranks have been.
    const std::int64_t now = now_ms();
    if (!watch.look(std::clamp<std::int64_t>(now - before, 0, 2 * interval_ms))) break;
    before = now;
  }
  if (launcher != 0) end_stuck_launcher(launcher);
  _exit(0);
}

void watch_start(int launcher, int alive) {
  pollfd end{alive, 0, 0};
  poll(&end, 1, -1);
  end_stuck_launcher(launcher);
  _exit(0);
}

}  // namespace strata
