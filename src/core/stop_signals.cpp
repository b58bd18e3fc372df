#include "core/stop_signals.hpp"

#include <pthread.h>

#include <csignal>

#include "core/activity.hpp"
#include "core/error.hpp"

namespace strata {

namespace {

void remember(int signal) {
  activity::slot().stop_signal.store(signal, std::memory_order_relaxed);
}

/// Of any rank of this node; 0: none.
int received() {
  for (const activity::Slot& slot : activity::board().slots)
    if (const int signal = slot.stop_signal.load(std::memory_order_relaxed)) return signal;
  return 0;
}

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGTERM);
  return set;
}

void mask_stop_signals(int how) {
  const sigset_t set = stop_set();
  pthread_sigmask(how, &set, nullptr);
}

}  // namespace

void hold_stop_signals() {
  mask_stop_signals(SIG_BLOCK);
}

void release_stop_signals() {
  mask_stop_signals(SIG_UNBLOCK);
}

StopSignals::StopSignals() {
  activity::slot().stop_signal = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  STRATA_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  STRATA_CHECK(sigaction(SIGTERM, &action, nullptr) == 0);
  release_stop_signals();
}

bool StopSignals::requested() const {
  return received() != 0;
}

std::string StopSignals::name() const {
  const int signal = received();
  return signal == 0 ? "" : signal == SIGUSR1 ? "USR1" : "TERM";
}

void check_stop() {
  if (received() != 0)
    fail(Exit::requeue, "stopped on request; the same command goes on from here");
}

}  // namespace strata
