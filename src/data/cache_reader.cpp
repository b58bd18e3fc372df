#include "data/cache_reader.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/file_handle.hpp"
#include "data/shard_file.hpp"

namespace strata {

struct CacheReader::Shard {
  FileHandle file;
  ShardLayout layout;
  ShardOffsets at;
  std::int64_t first_row = 0;
  std::vector<std::int64_t> offsets;  // text: n + 1
  std::vector<std::uint32_t> crcs;

  std::int64_t first_token(std::int64_t row) const {
    return layout.kind == CacheKind::text ? offsets[row] : row;
  }
  std::int64_t tokens(std::int64_t row) const { return first_token(row + 1) - first_token(row); }
};

namespace {

template <class T>
std::vector<T> read_array(const FileHandle& file, std::uint64_t offset, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  file.read_at(offset, std::as_writable_bytes(std::span(values)));
  return values;
}

void check_offsets(const std::string& path, const std::vector<std::int64_t>& offsets,
                   std::int64_t tokens) {
  bool valid = offsets.front() == 0 && offsets.back() == tokens;
  for (std::size_t i = 1; valid && i < offsets.size(); ++i) valid = offsets[i - 1] <= offsets[i];
  if (!valid) fail(Exit::data, "{}: /offsets do not ascend from 0 to {}", path, tokens);
}

/// Hashes everything ahead of /values before it is believed.
CacheReader::Shard open_shard(const std::string& dir, const CacheManifest& manifest,
                              const std::string& head_sha256, const ShardRecord& record,
                              ShardNotes& notes) {
  const std::string path = dir + "/" + record.file;
  CacheReader::Shard shard{
      FileHandle::open_for_reading(path),
      {manifest.kind, manifest.dtype, manifest.shape, record.count, record.tokens, 0},
      {},
      0,
      {},
      {}};
  const std::uint64_t bytes = shard.file.size();
  if (bytes != static_cast<std::uint64_t>(record.bytes))
    fail(Exit::data, "{}: {} bytes, the manifest says {}", path, bytes, record.bytes);
  const std::uint64_t values = shard.layout.values_bytes();
  if (values >= bytes)
    fail(Exit::data, "{}: {} bytes cannot hold {} bytes of /values", path, bytes, values);
  if (sha256_prefix(path, bytes - values) != record.meta_sha256)
    fail(Exit::data, "{}: meta_sha256 is wrong: the file is damaged outside /values", path);
  shard.at = open_shard_file(shard.file, shard.layout, notes);
  if (!notes.head_sha256.empty() && notes.head_sha256 != head_sha256)
    fail(Exit::data, "{}: is not of this manifest.json, which is damaged or another cache's", path);
  if (manifest.kind == CacheKind::text) {
    shard.offsets = read_array<std::int64_t>(shard.file, shard.at.offsets, record.count + 1);
    check_offsets(path, shard.offsets, record.tokens);
  }
  shard.crcs = read_array<std::uint32_t>(shard.file, shard.at.crc32c, record.count);
  return shard;
}

}  // namespace

CacheReader::CacheReader(const std::string& dir) : dir_(dir), manifest_(CacheManifest::load(dir)) {
  const std::string head_sha256 = manifest_.head_sha256();
  for (const ShardRecord& record : manifest_.shards) {
    if (record.count == 0) fail(Exit::data, "{}/{}: a shard of no rows", dir, record.file);
    ShardNotes notes;
    shards_.push_back(
        std::make_unique<Shard>(open_shard(dir, manifest_, head_sha256, record, notes)));
    if (shards_.size() == 1) provenance_ = notes.provenance;
    Shard& shard = *shards_.back();
    const std::string& path = shard.file.path();
    shard.first_row = static_cast<std::int64_t>(samples_.size());
    if (shards_.size() == 1) pooled_dim_ = shard.layout.pooled_dim;
    if (shard.layout.pooled_dim != pooled_dim_)
      fail(Exit::data, "{}: /pooled is {} wide, in the first shard {}", path,
           shard.layout.pooled_dim, pooled_dim_);
    for (std::int64_t sample :
         read_array<std::int64_t>(shard.file, shard.at.sample, record.count)) {
      if (sample < 0 || (!samples_.empty() && sample <= samples_.back()))
        fail(Exit::data, "{}: /sample: id {} is out of order", path, sample);
      samples_.push_back(sample);
    }
  }
}

CacheReader::~CacheReader() = default;
CacheReader::CacheReader(CacheReader&&) noexcept = default;

const CacheReader::Shard& CacheReader::shard_of(std::int64_t row) const {
  STRATA_CHECK(0 <= row && row < rows(), "row {} of {}", row, rows());
  const auto next =
      std::upper_bound(shards_.begin(), shards_.end(), row,
                       [](std::int64_t r, const auto& shard) { return r < shard->first_row; });
  return **std::prev(next);
}

std::int64_t CacheReader::find(std::int64_t sample) const {
  const auto found = std::lower_bound(samples_.begin(), samples_.end(), sample);
  return found != samples_.end() && *found == sample ? found - samples_.begin() : -1;
}

std::int64_t CacheReader::tokens(std::int64_t row) const {
  const Shard& shard = shard_of(row);
  return shard.tokens(row - shard.first_row);
}

namespace {

DType held_as(CacheDType stored) {
  return stored == CacheDType::bfloat16 ? DType::bf16 : DType::f32;
}

/// Whether the bytes of the file are those of the tensor.
bool is_same(CacheDType stored, DType dtype) {
  return (stored == CacheDType::bfloat16 && dtype == DType::bf16) ||
         (stored == CacheDType::float32 && dtype == DType::f32);
}

/// Where the file's bytes go: into the tensor, or to a place from which they are widened into it.
std::span<std::byte> landing(const Tensor& to, CacheDType stored, std::size_t bytes,
                             std::vector<std::byte>& aside) {
  if (to && is_same(stored, to.dtype)) return {to.data, bytes};
  STRATA_CHECK(!to || to.dtype == DType::f32, "{} out of a cache of {}", name_of(to.dtype),
               name_of(stored));
  aside.resize(bytes);
  return aside;
}

}  // namespace

DType CacheReader::values_dtype() const {
  return held_as(manifest_.dtype);
}
DType CacheReader::pooled_dtype() const {
  return held_as(shards_.front()->layout.pooled_dtype());
}

void CacheReader::will_read(std::int64_t row) const {
  const Shard& shard = shard_of(row);
  const std::int64_t local = row - shard.first_row;
  const std::uint64_t bytes = shard.layout.row_bytes();
  shard.file.will_read(
      shard.at.values + static_cast<std::uint64_t>(shard.first_token(local)) * bytes,
      static_cast<std::uint64_t>(shard.tokens(local)) * bytes);
}

void CacheReader::read_row(std::int64_t row, float* values, float* pooled) const {
  read_row(row, view_of(values, {tokens(row) * manifest_.elements()}),
           pooled ? view_of(pooled, {pooled_dim_}) : Tensor{});
}

void CacheReader::read_row(std::int64_t row, Tensor values, Tensor pooled) const {
  const Shard& shard = shard_of(row);
  const ShardLayout& layout = shard.layout;
  const auto local = static_cast<std::uint64_t>(row - shard.first_row);
  const std::int64_t tokens = shard.tokens(static_cast<std::int64_t>(local));
  const auto first =
      static_cast<std::uint64_t>(shard.first_token(static_cast<std::int64_t>(local)));
  STRATA_CHECK(values.numel() == tokens * manifest_.elements() &&
               (!pooled || pooled.numel() == pooled_dim_));
  thread_local std::vector<std::byte> aside, aside_pooled;
  thread_local std::vector<float> scale;
  const auto stored =
      landing(values, layout.dtype, static_cast<std::size_t>(tokens) * layout.row_bytes(), aside);
  shard.file.read_at(shard.at.values + first * layout.row_bytes(), stored);
  scale.resize(layout.has_scale() ? static_cast<std::size_t>(tokens) : 0);
  shard.file.read_at(shard.at.scale + first * 4, std::as_writable_bytes(std::span(scale)));
  const auto stored_pooled =
      landing(pooled, layout.pooled_dtype(), layout.pooled_row_bytes(), aside_pooled);
  shard.file.read_at(shard.at.pooled + local * layout.pooled_row_bytes(), stored_pooled);
  if (row_crc(samples_[row], stored, std::as_bytes(std::span(scale)), stored_pooled) !=
      shard.crcs[local])
    fail(Exit::data, "{}: sample {}: CRC-32C is wrong: the row is damaged", shard.file.path(),
         samples_[row]);
  if (stored.data() != values.data)
    widen(values.as<float>(), stored.data(), layout.dtype, tokens, manifest_.elements(),
          scale.data());
  if (pooled && stored_pooled.data() != pooled.data)
    widen(pooled.as<float>(), stored_pooled.data(), layout.pooled_dtype(), 1, pooled_dim_, nullptr);
}

void verify_cache(const std::string& dir) {
  const CacheReader cache(dir);
  // Rows first: a damaged one is then named. What no row shows, the hash of the whole file does.
  std::vector<float> values, pooled(static_cast<std::size_t>(cache.pooled_dim()));
  for (std::int64_t row = 0; row < cache.rows(); ++row) {
    values.resize(static_cast<std::size_t>(cache.tokens(row) * cache.manifest().elements()));
    cache.read_row(row, values.data(), pooled.data());
  }
  for (const ShardRecord& record : cache.manifest().shards) {
    const std::string path = dir + "/" + record.file;
    if (sha256_file(path) != record.sha256)
      fail(Exit::data, "{}: sha256 is not the manifest's", path);
  }
}

}  // namespace strata
