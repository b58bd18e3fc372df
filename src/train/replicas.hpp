#pragma once
// Every rank holds the same compute weights; a bit that a machine has turned shows as a difference.

#include "dist/communicator.hpp"

namespace strata {

/// Collective. Compares the bytes of `replica` over the ranks by hash. Error(88) on
/// every rank, naming the ranks that differ from most others, with their hosts; where no majority
/// is, all groups. `when` begins the message.
void check_replicas(Communicator& communicator, Tensor replica, const std::string& when);

}  // namespace strata
