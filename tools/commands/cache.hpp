#pragma once

#include "commands/commands.hpp"

namespace strata::commands {

/// `strata cache text`; arguments come without the two words.
int cache_text(const Arguments&, Communicator&);

}  // namespace strata::commands
