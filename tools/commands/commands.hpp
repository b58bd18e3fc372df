#pragma once
// One function a sub-command; argv[0] is the sub-command's name. Throw Error to fail; return the
// exit code otherwise. The MPI commands get the job's communicator.

#include <string>
#include <vector>

#include "dist/communicator.hpp"

namespace strata::commands {

using Arguments = std::vector<std::string>;  // without the command's own name

int index(const Arguments&, Communicator&);
int cache(const Arguments&, Communicator&);
int train(const Arguments&, Communicator&);
int config(const Arguments&, Communicator&);
int profile(const Arguments&, Communicator&);
int sample(const Arguments&, Communicator&);
int upsample(const Arguments&, Communicator&);
int score(const Arguments&, Communicator&);
int report(const Arguments&, Communicator&);
int convert(const Arguments&, Communicator&);
int inspect(const Arguments&, Communicator&);
int tokenize(const Arguments&, Communicator&);
int eval(const Arguments&, Communicator&);
int world(const Arguments&, Communicator&);

}  // namespace strata::commands
