#include "train/replicas.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/process.hpp"

namespace strata {

namespace {

/// Hash -> ranks ("3 on node17") that have it.
using Groups = std::map<std::string, std::vector<std::string>>;

constexpr std::size_t hash_digits = 16;

Groups groups_of(const std::vector<std::string>& answers) {
  Groups groups;
  for (std::size_t rank = 0; rank < answers.size(); ++rank)
    groups[answers[rank].substr(0, hash_digits)].push_back(
        fmt::format("{} on {}", rank, answers[rank].substr(hash_digits)));
  return groups;
}

}  // namespace

void check_replicas(Communicator& communicator, Tensor replica, const std::string& when) {
  STRATA_CHECK(replica.device == host_device);
  const std::uint64_t hash = xxh3({reinterpret_cast<const char*>(replica.data), replica.bytes()});
  const auto groups =
      groups_of(communicator.all_gather_strings(fmt::format("{:016x}{}", hash, host_name())));
  if (groups.size() == 1) return;
  const auto most = std::max_element(
      groups.begin(), groups.end(),
      [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  const auto ranks = static_cast<std::size_t>(communicator.size());
  const bool majority = 2 * most->second.size() > ranks;
  std::vector<std::string> parts;
  for (const auto& group : groups)
    if (!majority || &group != &*most)
      parts.push_back(fmt::format("rank {}", fmt::join(group.second, ", rank ")));
  fail(Exit::corruption, "{}: the weights of {} {}: suspect their hardware", when,
       fmt::join(parts, " | "),
       majority ? fmt::format("differ from those of the other {} ranks", most->second.size())
                : std::string("differ from one another"));
}

}  // namespace strata
