#pragma once
// The layouts in which people keep pictures and captions, read as one stream of candidates.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace strata {

/// A sample before it is checked. Whatever is already known to be wrong with it is in `problem`.
struct Candidate {
  std::string file;    // the image, or the tar shard that holds it; empty: a caption alone
  std::string member;  // within the shard
  std::vector<std::string> captions;
  std::int64_t offset = -1, bytes = -1;  // within the shard
  std::string problem;

  /// For messages.
  std::string name() const { return member.empty() ? file : file + "::" + member; }
};

using CandidateSink = std::function<void(Candidate)>;

/// `input` is a folder, a tar shard, a JSON-lines file or a text file. images: where relative image
/// names of the latter two are looked up (empty: beside the file). Paths come out as they were put
/// together from `input`. What cannot be read as a list at all is Error(65) naming the line.
void list_candidates(const std::string& input, const std::string& images,
                     const CandidateSink& sink);

}  // namespace strata
