#include "data/cache_set.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/rng.hpp"

namespace strata {

namespace {

std::vector<std::int64_t> intersect(std::span<const std::int64_t> a,
                                    std::span<const std::int64_t> b) {
  std::vector<std::int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both;
}

/// Uniform 64 bits, a pure function of (seed, id).
std::uint64_t holdout_hash(std::uint64_t seed, std::int64_t sample) {
  const auto block =
      random_block({seed}, {static_cast<std::uint64_t>(sample), 0, Purpose::holdout}, 0);
  return std::uint64_t{block[0]} << 32 | block[1];
}

/// The ids to be kept for validation, ascending.
std::vector<std::int64_t> held_out(std::span<const std::int64_t> ids, const Holdout& holdout) {
  if (!(holdout.fraction >= 0 && holdout.fraction < 1))
    fail(Exit::usage, "validation fraction {}: must lie in [0, 1)", holdout.fraction);
  const auto limit = static_cast<std::uint64_t>(holdout.fraction * 0x1p64);
  std::vector<std::pair<std::uint64_t, std::int64_t>> chosen;
  for (std::int64_t id : ids)
    if (const auto hash = holdout_hash(holdout.seed, id); hash < limit)
      chosen.emplace_back(hash, id);
  std::sort(chosen.begin(), chosen.end());
  if (holdout.max_samples > 0 && std::ssize(chosen) > holdout.max_samples)
    chosen.resize(static_cast<std::size_t>(holdout.max_samples));
  std::vector<std::int64_t> result;
  for (const auto& [hash, id] : chosen) result.push_back(id);
  std::sort(result.begin(), result.end());
  return result;
}

/// One thing that the config wants of a cache.
template <class T>
void expect(const std::string& dir, const char* what, const T& found, const T& wanted) {
  if (wanted != T{} && found != wanted)
    fail(Exit::mismatch, "{}: {} is {}, the config says {}", dir, what, found, wanted);
}

void check_latents(const CacheReader& cache, const CacheExpectation& wanted) {
  const CacheManifest& m = cache.manifest();
  if (m.kind != CacheKind::latent)
    fail(Exit::mismatch, "{}: is a text cache, latents are needed", cache.dir());
  if (!m.latent_scaled)
    fail(Exit::mismatch, "{}: latents are not scaled by the VAE's scaling factor", cache.dir());
  if (m.latent_kind != "sample" && m.latent_kind != "mean" && !m.holds_moments())
    fail(Exit::mismatch, "{}: latent_kind {}: sample, mean or moments is needed", cache.dir(),
         m.latent_kind);
  expect(cache.dir(), "latent channels", m.latent_channels(), wanted.latent_channels);
  expect(cache.dir(), "latent height", m.shape[1], wanted.latent_height);
  expect(cache.dir(), "latent width", m.shape[2], wanted.latent_width);
}

void check_text(const CacheReader& cache, const CacheExpectation& wanted) {
  const CacheManifest& m = cache.manifest();
  if (m.kind != CacheKind::text)
    fail(Exit::mismatch, "{}: is a latent cache, text is needed", cache.dir());
  expect(cache.dir(), "dim", m.dim, wanted.text_dim);
  expect(cache.dir(), "strategy", m.strategy, wanted.strategy);
  expect(cache.dir(), "pooled width", cache.pooled_dim(), wanted.pooled_dim);
}

void check_same_index(const CacheReader& a, const CacheReader& b) {
  if (a.manifest().index_sha256 != b.manifest().index_sha256)
    fail(Exit::mismatch, "{} and {}: made from different indexes (index_sha256)", a.dir(), b.dir());
}

}  // namespace

CacheSet::CacheSet(CacheReader latents, CacheReader text)
    : latents_(std::move(latents)), text_(std::move(text)) {}

CacheSet CacheSet::open(const std::string& latents_dir, const std::string& text_dir,
                        const Options& options) {
  CacheSet set{CacheReader(latents_dir), CacheReader(text_dir)};
  check_latents(set.latents_, options.expect);
  check_text(set.text_, options.expect);
  check_same_index(set.latents_, set.text_);
  auto common = intersect(set.latents_.samples(), set.text_.samples());
  for (const std::string& dir : options.also_in) {
    const CacheReader other(dir);
    check_same_index(set.latents_, other);
    common = intersect(common, other.samples());
  }
  set.validation_ = held_out(common, options.holdout);
  std::set_difference(common.begin(), common.end(), set.validation_.begin(), set.validation_.end(),
                      std::back_inserter(set.training_));
  if (set.training_.empty())
    fail(Exit::data, "{} and {}: no sample is left to train on", latents_dir, text_dir);
  set.hash_ = sha256_hex({reinterpret_cast<const char*>(set.training_.data()),
                          set.training_.size() * sizeof(std::int64_t)});
  return set;
}

CacheSet CacheSet::open(const std::string& latents_dir, const std::string& text_dir) {
  return open(latents_dir, text_dir, Options{});
}

std::span<const std::int64_t> CacheSet::ids(Part part) const {
  return part == Part::training ? training_ : validation_;
}

Shape CacheSet::latent_shape() const {
  const CacheManifest& m = latents_.manifest();
  return {m.latent_channels(), m.shape[1], m.shape[2]};
}

void CacheSet::will_read(std::span<const SampleOrder::Position> positions, Part part) const {
  for (const auto& position : positions) {
    const std::int64_t sample = ids(part)[position.sample_index];
    latents_.will_read(latents_.find(sample));
    text_.will_read(text_.find(sample));
  }
}

Batch CacheSet::read(std::span<const SampleOrder::Position> positions, Part part) const {
  const auto list = ids(part);
  const auto count = static_cast<std::int64_t>(positions.size());
  const CacheManifest& latent = latents_manifest();
  Batch batch;
  batch.moments = latent.holds_moments();
  batch.latents = Buffer(DType::f32, {count, latent.shape[0], latent.shape[1], latent.shape[2]});
  batch.offsets = Buffer(DType::i64, {count + 1});
  if (pooled_dim() > 0) batch.pooled = Buffer(text_.pooled_dtype(), {count, pooled_dim()});
  auto* const offsets = batch.offsets.as<std::int64_t>();
  std::vector<std::int64_t> text_rows;
  offsets[0] = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto [index, epoch] = positions[i];
    STRATA_CHECK(0 <= index && index < std::ssize(list), "sample {} of {}", index, list.size());
    batch.samples.push_back(list[index]);
    batch.epochs.push_back(epoch);
    text_rows.push_back(text_.find(list[index]));
    offsets[i + 1] = offsets[i] + text_.tokens(text_rows[i]);
  }
  batch.tokens = Buffer(text_.values_dtype(), {offsets[count], text_dim()});
  for (std::int64_t i = 0; i < count; ++i) {
    latents_.read_row(latents_.find(batch.samples[i]), batch.latents.tensor().rows(i, i + 1), {});
    text_.read_row(text_rows[i], batch.tokens.tensor().rows(offsets[i], offsets[i + 1]),
                   pooled_dim() > 0 ? batch.pooled.tensor().rows(i, i + 1) : Tensor{});
  }
  return batch;
}

}  // namespace strata
