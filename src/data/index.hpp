#pragma once
// `index.jsonl`: the dataset's fixed list of samples. A sample's id is its row.

#include <cstdint>
#include <string>
#include <vector>

namespace strata {

/// One line of the index. `image` is a file, relative to the index file's folder or absolute; for a
/// tar shard it is "SHARD.tar::MEMBER", and the member's bytes lie at [offset, offset + bytes) of
/// the shard. Empty for a sample that is a caption alone.
struct IndexEntry {
  std::string image;
  std::string caption;                // captions[0]
  std::vector<std::string> captions;  // at least one
  std::int64_t offset = -1, bytes = -1;
};

/// The whole index in memory. Read errors name the file and the line and are Error(65).
class Index {
 public:
  static Index load(const std::string& path);

  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }
  const IndexEntry& operator[](std::int64_t sample) const { return entries_[sample]; }
  /// SHA-256 of the file; part of every cache's manifest.
  const std::string& sha256() const { return sha256_; }
  const std::string& path() const { return path_; }
  /// The encoded image. Thread-safe; missing or short is Error(65) naming the sample.
  std::string read_image(std::int64_t sample) const;

 private:
  std::string path_, folder_, sha256_;
  std::vector<IndexEntry> entries_;
};

struct IndexOptions {
  /// Folders (with JSON lines, with tar shards, or with KEY.txt beside KEY.jpg), tar shards,
  /// JSON-lines files or text files; taken in this order.
  std::vector<std::string> inputs;
  /// Where a JSON-lines or text file's relative image names are looked up; empty: the file's
  /// folder.
  std::string images;
  std::string out;         // index.jsonl
  std::string skipped;     // empty: skipped.jsonl beside `out`
  double max_bad = 0.001;  // fraction of samples that may be skipped
  int threads = 0;         // decoding threads; 0: as many as the process may use
};

struct IndexReport {
  std::int64_t samples = 0, skipped = 0;
};

/// Lists every sample in a fixed order (inputs as given, folders by name, lines and tar members as
/// they lie), decodes every image once, and writes `out` and `skipped` under their final names only
/// when done. More than max_bad skipped, or no sample at all, is Error(65): then only `skipped` is
/// written.
IndexReport build_index(const IndexOptions& options);

}  // namespace strata
