#include "data/cache_writer.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "data/cache_reader.hpp"
#include "data/file_handle.hpp"
#include "data/shard_file.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;

std::string partial_of(const std::string& dir) {
  return dir + "/.partial";
}
std::string record_name(std::int64_t shard) {
  return shard_name(shard) + ".json";
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "rename", true);
}

std::string record_text(const ShardRecord& record) {
  return nlohmann::ordered_json{{"file", record.file},
                                {"count", record.count},
                                {"tokens", record.tokens},
                                {"bytes", record.bytes},
                                {"sha256", record.sha256},
                                {"meta_sha256", record.meta_sha256},
                                {"storage_error", record.storage_error}}
             .dump() +
         "\n";
}

/// A record that is missing, torn or of another shard gives nothing: the shard is then built again.
std::optional<ShardRecord> read_record(const std::string& dir, std::int64_t shard) {
  const std::string path = partial_of(dir) + "/" + record_name(shard);
  if (!file_exists(path)) return {};
  try {
    const nlohmann::json json = read_json_file(path, 1 << 16);
    ShardRecord record{
        json.at("file").get<std::string>(),    json.at("count").get<std::int64_t>(),
        json.at("tokens").get<std::int64_t>(), json.at("bytes").get<std::int64_t>(),
        json.at("sha256").get<std::string>(),  json.at("meta_sha256").get<std::string>(),
        json.at("storage_error").get<double>()};
    if (record.file != shard_name(shard)) return {};
    return record;
  } catch (const nlohmann::json::exception&) {
    return {};
  } catch (const Error&) {
    return {};
  }
}

/// A finished shard lies in `.partial/` until the cache is published; a kill meanwhile leaves it
/// either here or there.
std::string place_of(const std::string& dir, const ShardRecord& record) {
  for (const std::string& path : {partial_of(dir) + "/" + record.file, dir + "/" + record.file}) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (!error && bytes == static_cast<std::uintmax_t>(record.bytes)) return path;
  }
  return {};
}

std::string plan_text(const CachePlan& plan) {
  return fmt::format("{}rows_per_shard {}\npooled_dim {}\ndetails {}\n", plan.manifest.head_json(),
                     plan.rows_per_shard, plan.pooled_dim, plan.details);
}

void remove_cache(const std::string& dir) {
  std::error_code error;
  fs::remove(dir + "/manifest.json", error);
  if (error) fail(Exit::io, "{}/manifest.json: {}", dir, error.message());
  for (const auto& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("shard-") && name.ends_with(".h5")) fs::remove(entry.path(), error);
  }
}

}  // namespace

std::int64_t CachePlan::shards() const {
  return (manifest.count + rows_per_shard - 1) / rows_per_shard;
}

std::int64_t CachePlan::rows_in(std::int64_t shard) const {
  return std::min(rows_per_shard, manifest.count - first_row(shard));
}

std::int64_t default_rows_per_shard(std::int64_t rows, std::int64_t bytes_per_row) {
  constexpr std::int64_t largest = std::int64_t{2} << 30, share = 256, step = 64;
  const std::int64_t shared = (rows + share - 1) / share;
  const std::int64_t most =
      std::max<std::int64_t>(largest / std::max<std::int64_t>(bytes_per_row, 1), 1);
  return std::min(std::max((shared + step - 1) / step * step, 4 * step), most);
}

// --- one shard ----------------------------------------------------------------------------------

/// Sums of squares: of what int8 rounded away, and of the values.
struct StorageError {
  double lost = 0, total = 0;
};

struct ShardWriter::State {
  std::string dir;
  std::int64_t shard = 0;
  ShardLayout layout;
  std::vector<std::int64_t> samples;
  std::vector<std::int64_t> tokens;  // (n+1) where each row's begin; empty for latents
  ShardOffsets at;
  FileHandle file;
  std::vector<std::uint32_t> crcs;
  std::vector<bool> written;
  std::int64_t next = 0, left = 0;  // the row that append takes, rows to come
  std::vector<float> wide, scale;
  std::vector<StorageError> storage_errors;  // by row, so that no order of writing shows
  std::vector<std::byte> values, pooled;

  std::string temporary() const { return file.path(); }
  std::string label(std::int64_t row) const {
    return fmt::format("{}: sample {}", file.path(), samples[row]);
  }
};

ShardWriter::ShardWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
ShardWriter::ShardWriter(ShardWriter&&) noexcept = default;
ShardWriter::~ShardWriter() = default;

namespace {

/// The tensor's values as f32, in `wide` unless they are f32 already.
const float* as_f32(Tensor tensor, std::vector<float>& wide) {
  if (tensor.dtype == DType::f32) return tensor.as<float>();
  const bf16* from = tensor.as<bf16>();
  wide.resize(static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = to_float(from[i]);
  return wide.data();
}

StorageError storage_error(const float* values, const std::byte* stored,
                           const std::vector<float>& scale, std::int64_t elements) {
  StorageError error;
  std::vector<float> token(static_cast<std::size_t>(elements));
  for (std::size_t t = 0; t < scale.size(); ++t) {
    const auto first = static_cast<std::int64_t>(t) * elements;
    widen(token.data(), stored + first, CacheDType::int8, 1, elements, &scale[t]);
    for (std::int64_t i = 0; i < elements; ++i) {
      const double value = values[first + i], difference = value - token[i];
      error.lost += difference * difference;
      error.total += value * value;
    }
  }
  return error;
}

double relative_error(const std::vector<StorageError>& rows) {
  StorageError sum;
  for (const StorageError& row : rows) {
    sum.lost += row.lost;
    sum.total += row.total;
  }
  return sum.total > 0 ? std::sqrt(sum.lost / sum.total) : 0;
}

std::span<const std::byte> bytes_of(const std::vector<std::byte>& bytes) {
  return bytes;
}

}  // namespace

void ShardWriter::append(Tensor values, Tensor pooled) {
  put(state_->next, values, pooled);
}

void ShardWriter::put(std::int64_t row, Tensor values, Tensor pooled) {
  State& s = *state_;
  STRATA_CHECK(row >= 0 && row < s.layout.rows && !s.written[row], "shard {}: row {} of {}",
               s.shard, row, s.layout.rows);
  const bool is_text = s.layout.kind == CacheKind::text;
  const std::int64_t tokens = is_text ? s.tokens[row + 1] - s.tokens[row] : 1;
  const auto elements = static_cast<std::int64_t>(s.layout.row_bytes() / size_of(s.layout.dtype));
  STRATA_CHECK(values.numel() == tokens * elements && values.device == host_device,
               "{}: values {} instead of {} x {}", s.label(row), to_string(values.shape), tokens,
               elements);
  STRATA_CHECK(
      (s.layout.pooled_dim == 0) == !pooled && (!pooled || pooled.numel() == s.layout.pooled_dim),
      "{}: pooled {}", s.label(row), to_string(pooled.shape));
  s.values.resize(static_cast<std::size_t>(tokens) * s.layout.row_bytes());
  s.scale.resize(s.layout.has_scale() ? static_cast<std::size_t>(tokens) : 0);
  const float* const exact = as_f32(values, s.wide);
  bool finite = tokens == 0 ||
                to_stored(s.values.data(), s.scale.data(), exact, s.layout.dtype, tokens, elements);
  if (finite) s.storage_errors[row] = storage_error(exact, s.values.data(), s.scale, elements);
  s.pooled.resize(s.layout.pooled_row_bytes());
  if (pooled)
    finite = to_stored(s.pooled.data(), nullptr, as_f32(pooled, s.wide), s.layout.pooled_dtype(), 1,
                       s.layout.pooled_dim) &&
             finite;
  if (!finite)
    fail(Exit::data, "{}: a value is not finite in {} (bfloat16 and float32 have the larger range)",
         s.label(row), name_of(s.layout.dtype));

  const auto scale = std::as_bytes(std::span(s.scale));
  const auto first_value = static_cast<std::uint64_t>(is_text ? s.tokens[row] : row);
  s.file.write_at(s.at.values + first_value * s.layout.row_bytes(), s.values);
  if (!scale.empty()) s.file.write_at(s.at.scale + first_value * 4, scale);
  if (pooled)
    s.file.write_at(s.at.pooled + static_cast<std::uint64_t>(row) * s.layout.pooled_row_bytes(),
                    s.pooled);
  s.crcs[row] = row_crc(s.samples[row], bytes_of(s.values), scale, bytes_of(s.pooled));
  s.written[row] = true;
  s.next = row + 1;
  --s.left;
}

void ShardWriter::finish() {
  State& s = *state_;
  STRATA_CHECK(s.left == 0, "shard {}: {} rows of {} are missing", s.shard, s.left, s.layout.rows);
  s.file.write_at(s.at.sample, std::as_bytes(std::span(s.samples)));
  s.file.write_at(s.at.crc32c, std::as_bytes(std::span(s.crcs)));
  if (s.layout.kind == CacheKind::text)
    s.file.write_at(s.at.offsets, std::as_bytes(std::span(s.tokens)));
  const std::string temporary = s.temporary(), folder = partial_of(s.dir);
  ShardRecord record{shard_name(s.shard),
                     s.layout.rows,
                     s.layout.tokens,
                     static_cast<std::int64_t>(s.file.size()),
                     {},
                     {},
                     relative_error(s.storage_errors)};
  s.file.sync_and_close();
  ShardLayout found = s.layout;
  ShardNotes notes;
  open_shard_file(FileHandle::open_for_reading(temporary), found, notes);
  record.sha256 = sha256_file(temporary);
  record.meta_sha256 = sha256_prefix(temporary, s.at.values);
  rename_path(temporary, folder + "/" + record.file);
  sync_path(folder);
  write_file_atomically(folder + "/" + record_name(s.shard), record_text(record));
}

// --- the folder ---------------------------------------------------------------------------------

CacheBuilder::CacheBuilder(std::string dir, CachePlan plan)
    : dir_(std::move(dir)), plan_(std::move(plan)) {
  while (dir_.size() > 1 && dir_.ends_with('/')) dir_.pop_back();
  if (plan_.manifest.count < 1) fail(Exit::data, "{}: a cache of no samples", dir_);
  STRATA_CHECK(plan_.rows_per_shard > 0);
}

CacheBuilder::Status CacheBuilder::prepare(bool overwrite) {
  const std::string folder = partial_of(dir_), plan_path = folder + "/plan.txt";
  make_directories(folder);
  lock_ = FileLock(folder + "/lock", dir_);
  if (file_exists(dir_ + "/manifest.json") && !overwrite) {
    const CacheReader found(dir_);
    const bool same = found.manifest().head_json() == plan_.manifest.head_json() &&
                      found.provenance() == plan_.details && found.pooled_dim() == plan_.pooled_dim;
    std::error_code error;
    fs::remove_all(folder, error);  // left by a kill right after the manifest, or made above
    if (!same)
      fail(Exit::cannot_create,
           "{}: holds a finished cache of other settings (--overwrite replaces it)", dir_);
    return Status::finished;
  }
  if (overwrite) {
    remove_cache(dir_);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().filename() != "lock") fs::remove_all(entry.path(), error);
  }
  const std::string plan = plan_text(plan_);
  if (!file_exists(plan_path)) {
    write_file_atomically(plan_path, plan);
  } else if (read_file(plan_path, 1 << 20) != plan) {
    fail(Exit::mismatch,
         "{}: an unfinished cache of other settings is there (--overwrite drops it)", folder);
  }
  return Status::open;
}

std::vector<std::int64_t> CacheBuilder::missing_shards() const {
  std::vector<std::int64_t> missing;
  for (std::int64_t shard = 0; shard < plan_.shards(); ++shard) {
    const auto record = read_record(dir_, shard);
    if (!record || place_of(dir_, *record).empty()) missing.push_back(shard);
  }
  return missing;
}

ShardWriter CacheBuilder::begin_shard(std::int64_t shard, std::span<const std::int64_t> samples,
                                      std::span<const std::int64_t> tokens) const {
  const CacheManifest& m = plan_.manifest;
  const bool is_text = m.kind == CacheKind::text;
  STRATA_CHECK(static_cast<std::int64_t>(samples.size()) == plan_.rows_in(shard) &&
                   tokens.size() == (is_text ? samples.size() : 0),
               "shard {}: {} samples, {} token counts", shard, samples.size(), tokens.size());
  ShardLayout layout{m.kind, m.dtype, m.shape, plan_.rows_in(shard), 0, plan_.pooled_dim};
  std::vector<std::int64_t> begins;
  if (is_text) begins.push_back(0);
  for (std::int64_t count : tokens) begins.push_back(layout.tokens += count);
  const std::string temporary = partial_of(dir_) + "/" + shard_name(shard) + ".tmp";
  const ShardOffsets offsets =
      create_shard_file(temporary, layout, {plan_.details, plan_.manifest.head_sha256()});
  return ShardWriter(std::make_unique<ShardWriter::State>(
      ShardWriter::State{dir_,
                         shard,
                         layout,
                         {samples.begin(), samples.end()},
                         std::move(begins),
                         offsets,
                         FileHandle::open_for_writing(temporary),
                         std::vector<std::uint32_t>(samples.size()),
                         std::vector<bool>(samples.size()),
                         0,
                         layout.rows,
                         {},
                         {},
                         std::vector<StorageError>(samples.size())}));
}

void CacheBuilder::publish() {
  CacheManifest manifest = plan_.manifest;
  manifest.tokens = 0;
  manifest.shards.clear();
  for (std::int64_t shard = 0; shard < plan_.shards(); ++shard) {
    const auto record = read_record(dir_, shard);
    if (!record) fail(Exit::io, "{}: shard {} has no valid record", dir_, shard);
    manifest.tokens += record->tokens;
    manifest.shards.push_back(*record);
  }
  for (const ShardRecord& record : manifest.shards) {
    const std::string from = place_of(dir_, record), to = dir_ + "/" + record.file;
    if (from.empty()) fail(Exit::io, "{}: has gone", to);
    if (from != to) rename_path(from, to);
  }
  sync_path(dir_);
  const std::string folder = partial_of(dir_);
  write_file_atomically(folder + "/manifest.json", manifest.to_json());
  rename_path(folder + "/manifest.json", dir_ + "/manifest.json");
  sync_path(dir_);
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) fail(Exit::io, "{}: {}", folder, error.message());
}

}  // namespace strata
