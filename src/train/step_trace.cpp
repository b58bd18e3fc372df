#include "train/step_trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/file.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "core/spans.hpp"

namespace strata {

StepTrace::StepTrace(Communicator& communicator, std::string file, std::int64_t steps)
    : communicator_(communicator), file_(std::move(file)), steps_(steps) {
  if (file_.empty()) return;
  together(communicator_, [&] {
    if (communicator_.rank() == 0) make_directories(parent_of(file_));
  });
}

void StepTrace::before_step() {
  if (file_.empty() || ++seen_ != warm_up + 1) return;
  communicator_.barrier();  // machines count time from their own start
  spans::start();
  zero_ = spans::now();
  is_on_ = true;
}

void StepTrace::after_step() {
  if (seen_ == warm_up + steps_) finish();
}

void StepTrace::finish() {
  if (is_on_) write();
}

void StepTrace::write() {
  is_on_ = false;
  const int rank = communicator_.rank();
  const auto all = communicator_.all_gather_strings(
      spans::trace_events({.process = rank,
                           .name = fmt::format("rank {} on {}", rank, host_name()),
                           .zero = zero_,
                           .lanes = spans::stop()}));
  together(communicator_, [&] {
    if (rank == 0) write_file_atomically(file_, spans::trace_of(all));
  });
  log::info("trace of {} steps: {}", std::min(steps_, seen_ - warm_up), file_);
}

}  // namespace strata
