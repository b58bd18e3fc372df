#include "train/signals.hpp"

#include <pthread.h>

#include <csignal>

#include "core/error.hpp"

namespace strata {

namespace {

volatile std::sig_atomic_t received = 0;  // a handler can reach nothing but a global

void remember(int signal) {
  received = signal;
}

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void hold_stop_signals() {
  const sigset_t set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopSignals::StopSignals() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  STRATA_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  STRATA_CHECK(sigaction(SIGTERM, &action, nullptr) == 0);
  const sigset_t set = stop_set();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool StopSignals::requested() const {
  return received != 0;
}

std::string StopSignals::name() const {
  if (!requested()) return "";
  return received == SIGUSR1 ? "USR1" : "TERM";
}

}  // namespace strata
