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
constexpr std::size_t block_bytes = std::size_t{64} << 20;

/// Of the hashes of its blocks, so that a device's memory comes over piece by piece.
std::string hash_of(Tensor t) {
  const bool here = t.device == host_device;
  std::vector<std::byte> copy(here ? 0 : std::min(block_bytes, t.bytes()));
  std::string hashes;
  for (std::size_t at = 0; at < t.bytes(); at += block_bytes) {
    const std::size_t bytes = std::min(block_bytes, t.bytes() - at);
    if (!here) memory::copy(copy.data(), host_device, t.data + at, t.device, bytes);
    const auto* block = reinterpret_cast<const char*>(here ? t.data + at : copy.data());
    hashes += fmt::format("{:016x}", xxh3({block, bytes}));
  }
  return fmt::format("{:016x}", xxh3(hashes));
}

Groups groups_of(const std::vector<std::string>& answers) {
  Groups groups;
  for (std::size_t rank = 0; rank < answers.size(); ++rank)
    groups[answers[rank].substr(0, hash_digits)].push_back(
        fmt::format("{} on {}", rank, answers[rank].substr(hash_digits)));
  return groups;
}

}  // namespace

void check_replicas(Communicator& communicator, Tensor replica, const std::string& when) {
  if (communicator.size() == 1) return;
  const auto groups = groups_of(communicator.all_gather_strings(hash_of(replica) + host_name()));
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
