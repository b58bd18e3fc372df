#pragma once
// The caches that a run trains on: one of latents, one of text, joined by sample id.

#include <span>
#include <string>
#include <vector>

#include "core/buffer.hpp"
#include "data/cache_reader.hpp"
#include "data/sample_order.hpp"

namespace strata {

/// B samples, on the host. Tokens and pooled vectors are bf16 where the cache is, otherwise f32.
struct Batch {
  std::vector<std::int64_t> samples;  // B ids: the keys of all randomness
  std::vector<std::uint32_t> epochs;  // B
  Buffer latents;         // (B, C, h, w) f32, scaled; moments: (B, 2C, h, w) [mean | std]
  bool moments = false;   // `latents` are the posterior's, still to be drawn from
  Buffer tokens;          // (T, D), the texts laid end to end; T may be 0 (then (0, D))
  Buffer offsets;         // (B + 1) i64
  Buffer pooled;          // (B, P), or absent
  std::int64_t step = 0;  // from the loader: counted from its first step
  int microbatch = 0;     // from the loader: within the step
};

/// Which samples are kept for validation: those whose hash of (seed, id) falls below `fraction`; of
/// them the `max_samples` with the smallest hashes when that is > 0. Independent of which caches
/// exist.
struct Holdout {
  double fraction = 0;
  std::int64_t max_samples = 0;
  std::uint64_t seed = 0;
};

/// What the config says the caches must be; a value left at its default is not checked. Error(78).
struct CacheExpectation {
  std::int64_t latent_channels = 0, latent_height = 0, latent_width = 0;
  std::int64_t text_dim = 0;
  std::int64_t pooled_dim = 0;  // > 0: /pooled must be there
  std::string strategy;
};

class CacheSet {
 public:
  struct Options {
    Holdout holdout;
    CacheExpectation expect;
    /// Further cache folders whose ids count in the intersection (a grid's other models).
    std::vector<std::string> also_in;
  };
  /// Damage is Error(65); caches of different indexes, unscaled latents, or anything unlike
  /// `expect` is Error(78); no common sample is Error(65).
  static CacheSet open(const std::string& latents_dir, const std::string& text_dir,
                       const Options& options);
  static CacheSet open(const std::string& latents_dir, const std::string& text_dir);

  enum class Part { training, validation };
  /// Ids in ascending order; SampleOrder::Position::sample_index indexes this list.
  std::span<const std::int64_t> ids(Part part = Part::training) const;
  std::int64_t size(Part part = Part::training) const {
    return static_cast<std::int64_t>(ids(part).size());
  }
  /// SHA-256 of the training ids (little-endian int64): part of the run.
  const std::string& hash() const { return hash_; }

  std::int64_t text_dim() const { return text_.manifest().dim; }
  std::int64_t pooled_dim() const { return text_.pooled_dim(); }
  /// (C, h, w) of the latents that training sees
  Shape latent_shape() const;
  const CacheManifest& latents_manifest() const { return latents_.manifest(); }
  const CacheManifest& text_manifest() const { return text_.manifest(); }

  /// They will be read soon. Thread-safe.
  void will_read(std::span<const SampleOrder::Position> positions,
                 Part part = Part::training) const;
  /// Reads and checks the rows. Thread-safe.
  Batch read(std::span<const SampleOrder::Position> positions, Part part = Part::training) const;

 private:
  CacheSet(CacheReader latents, CacheReader text);

  CacheReader latents_, text_;
  std::vector<std::int64_t> training_, validation_;
  std::string hash_;
};

}  // namespace strata
