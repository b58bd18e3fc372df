#pragma once
// Ranks as threads of one process: any rank count in any test, without a launcher.

#include <functional>
#include <memory>

#include "dist/communicator.hpp"

namespace strata::testing_world {

/// Runs body(comm) on `ranks` threads; rethrows the exception of the lowest rank that threw. All
/// ranks must throw, or none: a rank that is alone in a collective would wait forever.
void run_ranks(int ranks, const std::function<void(Communicator&)>& body);
/// The same; before_gather(rank) is called at the beginning of every all-gather.
void run_ranks(int ranks, const std::function<void(int rank)>& before_gather,
               const std::function<void(Communicator&)>& body);

}  // namespace strata::testing_world
