#include "data/cache_format.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "core/json_object.hpp"

namespace strata {

namespace {

using Json = nlohmann::json;
constexpr const char* format_name = "strata-cache-1";
constexpr std::int64_t most = std::int64_t{1} << 53;  // exact in every JSON reader

std::string_view name_of(CacheKind kind) {
  return kind == CacheKind::text ? "text" : "latent";
}

/// A count; 0 for null.
std::int64_t count_of(const Json& value, const char* key, const JsonObject& keys) {
  return value.is_null() ? 0 : keys.integer(value, key, 0, most);
}
std::int64_t count_of(const char* key, JsonObject& keys) {
  return count_of(keys.take(key), key, keys);
}

nlohmann::ordered_json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

ShardRecord parse_shard(const Json& json, const std::string& where, std::int64_t shard) {
  JsonObject keys(json, fmt::format("{}: shard {}", where, shard));
  ShardRecord record;
  record.file = keys.text("file");
  if (record.file != shard_name(shard)) keys.refuse("file", "is not " + shard_name(shard));
  record.count = count_of("count", keys);
  record.tokens = count_of("tokens", keys);
  record.bytes = count_of("bytes", keys);
  record.sha256 = keys.digest_or_null("sha256");
  record.meta_sha256 = keys.digest_or_null("meta_sha256");
  record.storage_error = keys.has("storage_error") ? keys.number("storage_error", 0, 1) : 0;
  keys.finish();
  return record;
}

/// Sums that do not add up, or a row whose size overflows.
void check_consistent(const CacheManifest& m, JsonObject& keys) {
  std::int64_t count = 0, tokens = 0;
  for (const ShardRecord& shard : m.shards) {
    count += shard.count;
    tokens += shard.tokens;
    if (count > most || tokens > most) keys.refuse("shards", "counts overflow");
  }
  if (count != m.count) keys.refuse("count", "is not the sum of the shards' counts");
  if (tokens != m.tokens) keys.refuse("tokens", "is not the sum of the shards' tokens");
  if (m.count == 0) keys.refuse("count", "is 0");
  std::int64_t elements = 1;
  for (std::int64_t extent : m.shape) {
    if (extent < 1 || extent > (1 << 24)) keys.refuse("shape", "has an extent out of range");
    elements *= extent;
    if (elements > (std::int64_t{1} << 31)) keys.refuse("shape", "is too large");
  }
  const std::size_t rank = m.kind == CacheKind::text ? 1 : 3;
  if (m.shape.size() != rank || m.shape[0] != m.dim)
    keys.refuse("shape", "does not fit kind and dim");
  if (m.kind == CacheKind::latent && m.tokens != 0) keys.refuse("tokens", "latents have none");
  if (m.kind == CacheKind::latent && m.holds_moments() && m.dim % 2 != 0)
    keys.refuse("dim", "moments are a mean and a deviation of every channel");
  if (m.kind == CacheKind::latent && m.dtype == CacheDType::int8)
    keys.refuse("dtype", "int8 is for text only");
}

}  // namespace

CacheDType parse_cache_dtype(const std::string& name) {
  for (auto dtype :
       {CacheDType::bfloat16, CacheDType::float16, CacheDType::float32, CacheDType::int8})
    if (name == name_of(dtype)) return dtype;
  if (name == "bf16") return CacheDType::bfloat16;
  if (name == "fp16" || name == "f16") return CacheDType::float16;
  if (name == "fp32" || name == "f32") return CacheDType::float32;
  fail(Exit::usage, "dtype {}: bfloat16, float16, float32 or int8", name);
}

std::string_view name_of(CacheDType dtype) {
  switch (dtype) {
    case CacheDType::bfloat16:
      return "bfloat16";
    case CacheDType::float16:
      return "float16";
    case CacheDType::float32:
      return "float32";
    case CacheDType::int8:
      return "int8";
  }
  return "?";
}

std::size_t size_of(CacheDType dtype) {
  switch (dtype) {
    case CacheDType::bfloat16:
    case CacheDType::float16:
      return 2;
    case CacheDType::float32:
      return 4;
    case CacheDType::int8:
      return 1;
  }
  return 0;
}

std::string shard_name(std::int64_t shard) {
  return fmt::format("shard-{:05}.h5", shard);
}

std::int64_t CacheManifest::elements() const {
  std::int64_t n = 1;
  for (std::int64_t extent : shape) n *= extent;
  return n;
}

double CacheManifest::storage_error() const {
  double squares = 0;
  for (const ShardRecord& shard : shards)
    squares += shard.storage_error * shard.storage_error * static_cast<double>(shard.tokens);
  return std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(tokens, 1)));
}

std::string CacheManifest::to_json() const {
  const bool is_text = kind == CacheKind::text;
  nlohmann::ordered_json json;
  json["format"] = format_name;
  json["kind"] = name_of(kind);
  json["count"] = count;
  json["tokens"] = tokens;
  json["dim"] = dim;
  json["shape"] = shape;
  json["dtype"] = strata::name_of(dtype);
  json["strategy"] = text_or_null(strategy);
  json["max_tokens"] = is_text ? nlohmann::ordered_json(max_tokens) : nullptr;
  json["attention"] = text_or_null(attention);
  json["model"] = text_or_null(model);
  json["weights_sha256"] = text_or_null(weights_sha256);
  json["tokenizer_sha256"] = text_or_null(tokenizer_sha256);
  json["index_sha256"] = text_or_null(index_sha256);
  json["latent_kind"] = text_or_null(latent_kind);
  json["latent_scaled"] = is_text ? nullptr : nlohmann::ordered_json(latent_scaled);
  json["shards"] = nlohmann::ordered_json::array();
  for (const ShardRecord& shard : shards) {
    json["shards"].push_back({{"file", shard.file},
                              {"count", shard.count},
                              {"tokens", shard.tokens},
                              {"bytes", shard.bytes},
                              {"sha256", shard.sha256},
                              {"meta_sha256", shard.meta_sha256}});
    if (dtype == CacheDType::int8) json["shards"].back()["storage_error"] = shard.storage_error;
  }
  return json.dump(2) + "\n";
}

std::string CacheManifest::head_json() const {
  CacheManifest head = *this;
  head.tokens = 0;
  head.shards.clear();
  return head.to_json();
}

std::string CacheManifest::head_sha256() const {
  return sha256_hex(head_json());
}

CacheManifest CacheManifest::parse(std::string_view json, const std::string& path) {
  const Json root = parse_json(json, path);
  JsonObject keys(root, path);
  if (keys.text("format") != format_name)
    keys.refuse("format", fmt::format("is not {}", format_name));
  CacheManifest m;
  const std::string kind = keys.text("kind");
  if (kind != "text" && kind != "latent") keys.refuse("kind", "neither text nor latent");
  m.kind = kind == "text" ? CacheKind::text : CacheKind::latent;
  m.count = count_of("count", keys);
  m.tokens = count_of("tokens", keys);
  m.dim = count_of("dim", keys);
  const Json& shape = keys.take("shape");
  if (!shape.is_array() || shape.size() > 3) keys.refuse("shape", "not a short array");
  for (const Json& extent : shape) m.shape.push_back(count_of(extent, "shape", keys));
  const std::string dtype = keys.text("dtype");
  try {
    m.dtype = parse_cache_dtype(dtype);
  } catch (const Error& e) {
    keys.refuse("dtype", e.what());
  }
  m.strategy = keys.text_or_null("strategy");
  m.max_tokens = count_of("max_tokens", keys);
  m.attention = keys.text_or_null("attention");
  m.model = keys.text_or_null("model");
  m.weights_sha256 = keys.digest_or_null("weights_sha256");
  m.tokenizer_sha256 = keys.digest_or_null("tokenizer_sha256");
  m.index_sha256 = keys.digest_or_null("index_sha256");
  m.latent_kind = keys.text_or_null("latent_kind");
  const Json& scaled = keys.take("latent_scaled");
  if (!scaled.is_boolean() && !scaled.is_null()) keys.refuse("latent_scaled", "is not a boolean");
  m.latent_scaled = scaled.is_boolean() && scaled.get<bool>();
  const Json& shards = keys.take("shards");
  if (!shards.is_array() || shards.empty()) keys.refuse("shards", "not a list of shards");
  for (const Json& shard : shards)
    m.shards.push_back(parse_shard(shard, path, static_cast<std::int64_t>(m.shards.size())));
  keys.finish();
  check_consistent(m, keys);
  return m;
}

CacheManifest CacheManifest::load(const std::string& dir) {
  const std::string path = dir + "/manifest.json";
  if (!file_exists(path)) {
    const bool partial = directory_exists(dir + "/.partial");
    fail(Exit::data, "{}: no such file{}", path,
         partial ? " (the cache is unfinished: run the caching command again)" : "");
  }
  return parse(read_file(path, std::uint64_t{256} << 20), path);
}

std::uint32_t row_crc(std::int64_t sample, std::span<const std::byte> values,
                      std::span<const std::byte> scale, std::span<const std::byte> pooled) {
  std::uint32_t crc = crc32c(0, &sample, sizeof sample);
  for (auto part : {values, scale, pooled})
    if (!part.empty()) crc = crc32c(crc, part.data(), part.size());
  return crc;
}

namespace {

template <class T>
T load_as(const std::byte* from, std::int64_t i) {
  T value;
  std::memcpy(&value, from + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store_as(std::byte* to, std::int64_t i, T value) {
  std::memcpy(to + i * sizeof(T), &value, sizeof(T));
}

bool is_finite_half(std::uint16_t half) {
  return (half & 0x7c00u) != 0x7c00u;
}

/// Symmetric, one scale a token: the largest magnitude becomes 127.
bool quantize_token(std::byte* out, float* scale, const float* values, std::int64_t elements) {
  float largest = 0;
  bool finite = true;
  for (std::int64_t i = 0; i < elements; ++i) {
    finite = finite && std::isfinite(values[i]);
    largest = std::max(largest, std::abs(values[i]));
  }
  *scale = largest / 127.0f;
  const float inverse = *scale > 0 ? 1.0f / *scale : 0.0f;
  for (std::int64_t i = 0; i < elements && finite; ++i) {
    const float level = std::clamp(std::nearbyint(values[i] * inverse), -127.0f, 127.0f);
    store_as(out, i, static_cast<std::int8_t>(level));
  }
  return finite && std::isfinite(inverse);
}

}  // namespace

void widen(float* out, const std::byte* stored, CacheDType dtype, std::int64_t tokens,
           std::int64_t elements, const float* scale) {
  const std::int64_t n = tokens * elements;
  if (n == 0) return;
  switch (dtype) {
    case CacheDType::bfloat16:
      for (std::int64_t i = 0; i < n; ++i) out[i] = to_float(load_as<bf16>(stored, i));
      return;
    case CacheDType::float16:
      for (std::int64_t i = 0; i < n; ++i)
        out[i] = half_to_float(load_as<std::uint16_t>(stored, i));
      return;
    case CacheDType::float32:
      std::memcpy(out, stored, static_cast<std::size_t>(n) * 4);
      return;
    case CacheDType::int8:
      for (std::int64_t i = 0; i < n; ++i)
        out[i] = static_cast<float>(load_as<std::int8_t>(stored, i)) * scale[i / elements];
      return;
  }
}

bool to_stored(std::byte* out, float* scale, const float* values, CacheDType dtype,
               std::int64_t tokens, std::int64_t elements) {
  const std::int64_t n = tokens * elements;
  bool finite = true;
  switch (dtype) {
    case CacheDType::bfloat16:
      for (std::int64_t i = 0; i < n; ++i) {
        const bf16 rounded = to_bf16(values[i]);
        finite = finite && std::isfinite(to_float(rounded));
        store_as(out, i, rounded);
      }
      break;
    case CacheDType::float16:
      for (std::int64_t i = 0; i < n; ++i) {
        const std::uint16_t half = float_to_half(values[i]);
        finite = finite && is_finite_half(half);
        store_as(out, i, half);
      }
      break;
    case CacheDType::float32:
      for (std::int64_t i = 0; i < n; ++i) finite = finite && std::isfinite(values[i]);
      std::memcpy(out, values, static_cast<std::size_t>(n) * 4);
      break;
    case CacheDType::int8:
      for (std::int64_t t = 0; t < tokens; ++t)
        finite = quantize_token(out + t * elements, scale + t, values + t * elements, elements) &&
                 finite;
      break;
  }
  return finite;
}

}  // namespace strata
