#include "core/last_words.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "core/activity.hpp"
#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {

namespace {

const char* signal_name(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGFPE:
      return "SIGFPE";
    case SIGILL:
      return "SIGILL";
    default:
      return "SIGABRT";
  }
}

void leave_note(int code, int rank, std::string_view cause, bool restart) {
  const activity::Board& board = activity::board();
  if (!board.has_paths || ::access(board.claim, F_OK) != 0 || ::access(board.note, F_OK) == 0)
    return;
  FixedText text;
  text.add("{\n  \"code\": ").add(code).add(",\n  \"rank\": ").add(rank);
  text.add(",\n  \"cause\": \"").add(cause).add("\",\n  \"restart\": ");
  text.add(restart ? "true\n}\n" : "false\n}\n");
  char temporary[activity::most_path + 16];
  const std::size_t length = std::strlen(board.note);
  std::memcpy(temporary, board.note, length);
  std::memcpy(temporary + length, ".last-words", 12);
  const int fd = ::open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return;
  write_fully(fd, text.view());
  ::fsync(fd);
  ::close(fd);
  ::rename(temporary, board.note);
}

void crashed(int signal) {
  const activity::Slot& slot = activity::slot();
  FixedText cause;
  cause.add("rank ").add(slot.rank.load()).add(": crashed with ").add(signal_name(signal));
  cause.add(" in section ").add(activity::name_of(slot.section.load()));
  cause.add(", step ").add(slot.step.load());
  say_own_last_words(Exit::internal, cause.view(), false);
  rlimit core{};
  if (getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur > 0) {
    std::signal(signal, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    raise(signal);
  }
  _exit(static_cast<int>(Exit::internal));
}

}  // namespace

FixedText& FixedText::add(std::string_view text) {
  const std::size_t n = std::min(text.size(), sizeof text_ - length_);
  std::memcpy(text_ + length_, text.data(), n);
  length_ += n;
  return *this;
}

FixedText& FixedText::add(std::int64_t value) {
  char digits[24];
  char* at = std::end(digits);
  auto rest = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  do *--at = static_cast<char>('0' + rest % 10);
  while (rest /= 10);
  if (value < 0) *--at = '-';
  return add(std::string_view(at, static_cast<std::size_t>(std::end(digits) - at)));
}

void say_last_words(int code, int rank, std::string_view cause, bool restart) {
  leave_note(code, rank, cause, restart);
  FixedText line;
  line.add("strata: error: ").add(cause).add("\n");
  write_fully(STDERR_FILENO, line.view());
}

void say_own_last_words(Exit code, std::string_view cause, bool restart) {
  say_last_words(static_cast<int>(code), activity::slot().rank, cause, restart);
  activity::set_life(activity::Life::failing);
}

void answer_crashes() {
  // Of its own: where the stack has overflown there is no room for a handler.
  alignas(16) static char stack[64 << 10];
  stack_t alternative{};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_handler = crashed;
  action.sa_flags = SA_ONSTACK | SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
    sigaction(signal, &action, nullptr);
}

}  // namespace strata
