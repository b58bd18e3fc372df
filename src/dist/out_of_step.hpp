#pragma once

#include "core/error.hpp"

namespace strata {

/// The ranks do not make the same collective calls in the same order, or a message was lost. What
/// they would agree on means nothing any more, so nobody goes on after it.
class OutOfStep : public Error {
 public:
  explicit OutOfStep(const std::string& what) : Error(Exit::internal, what) {}
};

}  // namespace strata
