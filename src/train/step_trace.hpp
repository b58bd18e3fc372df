#pragma once
// `train --trace FILE`: what the threads of every rank did during a few steps, in one file for
// chrome://tracing or Perfetto.

#include <cstdint>
#include <string>

#include "dist/communicator.hpp"

namespace strata {

class StepTrace {
 public:
  /// Steps of this process before the first that is traced: in them buffers grow and shapes are
  /// seen for the first time.
  static constexpr std::int64_t warm_up = 2;

  /// file: "" traces nothing. Error(73, 74) where its folder cannot be made. Collective.
  StepTrace(Communicator& communicator, std::string file, std::int64_t steps);
  /// Before every step. Collective.
  void before_step();
  /// After every step: writes the file when it was the last one to trace. Error(73, 74).
  /// Collective.
  void after_step();
  /// Writes what there is when training ends earlier. Collective.
  void finish();

 private:
  void write();

  Communicator& communicator_;
  const std::string file_;
  const std::int64_t steps_;
  std::int64_t seen_ = 0;  // steps that have begun
  std::int64_t zero_ = 0;  // this process's clock when all ranks began to trace
  bool is_on_ = false;
};

}  // namespace strata
