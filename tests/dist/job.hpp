#pragma once

#include "dist/communicator.hpp"

/// The ranks that run this test program.
strata::Communicator& world();
