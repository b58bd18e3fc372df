#include "core/activity.hpp"

#include <unistd.h>

#include <cstring>

namespace strata::activity {

namespace {

Board own;
// One a process, like the log: what announces may be anywhere, and a signal handler has no
// argument.
std::atomic<Board*> the_board{&own};
std::atomic<Slot*> the_slot{&own.slots[0]};
thread_local Thread this_thread = Thread::other;

Slot::Channel& channel() {
  return slot().channels[static_cast<int>(this_thread)];
}

void copy_path(char* to, const char* from) {
  std::strncpy(to, from, most_path - 1);
}

}  // namespace

const char* name_of(Section section) {
  constexpr const char* names[] = {"start",  "load",     "data",    "step", "update",
                                   "verify", "validate", "samples", "save", "end"};
  static_assert(std::size(names) == sections);
  return names[static_cast<int>(section)];
}

bool is_slow(Section section) {
  switch (section) {
    case Section::start:
    case Section::load:
    case Section::validate:
    case Section::samples:
    case Section::save:
    case Section::end:
      return true;
    default:
      return false;
  }
}

const char* name_of(Collective collective) {
  constexpr const char* names[] = {
      "none",           "barrier",    "broadcast",      "sum",           "max",
      "reduce_scatter", "all_gather", "gather_strings", "another thread"};
  static_assert(std::size(names) == static_cast<int>(Collective::thread) + 1);
  return names[static_cast<int>(collective)];
}

std::uint64_t Slot::progress() const {
  std::uint64_t sum = 0;
  for (const Thread who : {Thread::main, Thread::gradients})
    sum += channels[static_cast<int>(who)].beats.load(std::memory_order_relaxed);
  return sum;
}

Board& board() {
  return *the_board.load(std::memory_order_relaxed);
}
Slot& slot() {
  return *the_slot.load(std::memory_order_relaxed);
}

void use(Board& shared, int index) {
  const Slot& before = slot();
  Slot& now = shared.slots[index];
  now.rank = before.rank.load();
  now.pid = before.pid.load();
  now.section = before.section.load();
  now.step = before.step.load();
  now.life = before.life.load();
  the_board = &shared;
  the_slot = &now;
}

void begin(int rank) {
  this_thread = Thread::main;
  Slot& s = slot();
  s.rank = rank;
  s.pid = static_cast<int>(getpid());
  s.life = Life::running;
}

void set_life(Life life) {
  slot().life = life;
}
void set_thread(Thread who) {
  this_thread = who;
}

void beat() {
  channel().beats.fetch_add(1, std::memory_order_relaxed);
}

void enter(Section section) {
  slot().section.store(section, std::memory_order_relaxed);
  beat();
}

void at_step(std::int64_t step) {
  slot().step.store(step, std::memory_order_relaxed);
  slot().steps.fetch_add(1, std::memory_order_relaxed);
}

void set_paths(const char* note, const char* log, const char* claim) {
  Board& b = board();
  copy_path(b.note, note);
  copy_path(b.log, log);
  copy_path(b.claim, claim);
  b.has_paths = true;
}

Waits::Waits(Collective collective)
    : channel_(channel()), before_(channel_.waits_in.load(std::memory_order_relaxed)) {
  channel_.beats.fetch_add(1, std::memory_order_relaxed);
  if (before_ == Collective::none) channel_.collective.fetch_add(1, std::memory_order_relaxed);
  channel_.waits_in.store(collective, std::memory_order_relaxed);
}

Waits::~Waits() {
  channel_.waits_in.store(before_, std::memory_order_relaxed);
  channel_.beats.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace strata::activity
