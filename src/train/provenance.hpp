#pragma once

#include <string>

#include "dist/communicator.hpp"
#include "train/config.hpp"
#include "train/step.hpp"

namespace strata {

/// Where a run's numbers come from: version, hashes of config, caches, sample list and model,
/// ranks, threads, hosts, libraries. A JSON object. Collective.
std::string provenance_json(const TrainConfig& config, Learner& learner,
                            Communicator& communicator);

/// What, besides the config, must be equal for a resumed run to go on bitwise: compiler and
/// instruction set.
std::string build_description();
/// SHA-256 of a cache's manifest.json, which names the hash of every shard.
std::string cache_hash(const std::string& dir);

}  // namespace strata
