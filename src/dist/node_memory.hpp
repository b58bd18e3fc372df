#pragma once
// What the ranks of a node share outside of MPI: files without a name, which are gone with the last
// process that has them, however it ends.

#include <vector>

#include "dist/communicator.hpp"

namespace strata {

/// A file that a rank of this node has open.
struct NodeFile {
  int rank = 0, pid = 0, fd = -1;  // fd -1: that rank offers none
  /// A descriptor of this process's own; -1 and errno where it cannot be had.
  int reopen() const;
};

/// What each rank of this node offers, in the order of ranks. Collective.
std::vector<NodeFile> files_of_node(Communicator& comm, int fd);

/// From now on this Exec's layouts of weights inside of `weights` are those of all ranks of the
/// node (core/shared_layouts.hpp): every rank has the same weights in it and calls
/// weights_changed() equally often. A warning where they cannot be shared; nothing on a device or a
/// node's only rank. Collective.
void share_layouts(Exec& exec, Communicator& comm, Tensor weights);

}  // namespace strata
