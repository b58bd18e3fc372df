#include "train/checkpoint_manifest.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/file.hpp"
#include "core/json.hpp"
#include "core/json_object.hpp"

namespace strata::checkpoint {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view format_name = "strata-checkpoint";
constexpr int format_version = 1;
constexpr std::int64_t element = sizeof(float);
// The hash is the last member of the object, on a line of its own and of fixed length.
constexpr std::string_view trailer_begin = ",\n\"sha256\": \"", trailer_end = "\"}\n";
constexpr std::size_t hash_digits = 64;
constexpr std::size_t trailer_bytes = trailer_begin.size() + hash_digits + trailer_end.size();

const char* layout_name(ParamLayout layout) {
  return layout == ParamLayout::conv_krsc ? "krsc" : "plain";
}

std::string trailer(std::string_view body) {
  return fmt::format("{}{}{}", trailer_begin, sha256_hex(body), trailer_end);
}

constexpr std::int64_t most_elements = std::int64_t{1} << 48;

File parse_file(JsonObject in, int rank, int world_size) {
  File file;
  file.name = in.text("name");
  if (file.name != shard_name(rank, world_size))
    in.refuse("name", "is not " + shard_name(rank, world_size));
  file.bytes = in.integer("bytes", 0, most_elements * element);
  file.sha256 = in.text("sha256");
  for (const json& crc : in.array("crc32c"))
    file.crc32c.push_back(static_cast<std::uint32_t>(
        in.integer(crc, "crc32c", 0, std::numeric_limits<std::uint32_t>::max())));
  if (static_cast<std::int64_t>(file.crc32c.size()) != (file.bytes + block_bytes - 1) / block_bytes)
    in.refuse("crc32c", fmt::format("{} of them for {} bytes", file.crc32c.size(), file.bytes));
  in.finish();
  return file;
}

ManifestTensor parse_tensor(JsonObject in, const Manifest& manifest) {
  ManifestTensor tensor;
  tensor.name = in.text("name");
  if (in.text("dtype") != "f32") in.refuse("dtype", "is not f32");
  const json& shape = in.array("shape");
  if (shape.size() > Shape::max_rank) in.refuse("shape", fmt::format("of rank {}", shape.size()));
  std::int64_t numel = 1;
  for (const json& extent : shape) {
    tensor.shape.append(in.integer(extent, "shape", 1, most_elements));
    if (__builtin_mul_overflow(numel, tensor.shape[-1], &numel) || numel > most_elements)
      in.refuse("shape", "is too large");
  }
  const std::string layout = in.text("layout");
  if (layout == layout_name(ParamLayout::conv_krsc))
    tensor.layout = ParamLayout::conv_krsc;
  else if (layout != layout_name(ParamLayout::plain))
    in.refuse("layout", "is not known");
  if (tensor.layout == ParamLayout::conv_krsc && tensor.shape.rank() != 4)
    in.refuse("layout", "does not fit the shape");
  if (in.integer("numel", 1, most_elements) != numel) in.refuse("numel", "does not fit the shape");
  JsonObject by_kind(in.take("pieces"), in.where() + ".pieces");
  for (const std::string& kind : manifest.kinds) {
    auto& pieces = tensor.pieces.emplace_back();
    for (const json& numbers : by_kind.array(kind.c_str())) {
      if (!numbers.is_array() || numbers.size() != 4)
        in.refuse("pieces", "one is not [file, offset, start, count]");
      pieces.push_back(
          {static_cast<int>(in.integer(numbers[0], "file", 0, manifest.world_size - 1)),
           in.integer(numbers[1], "offset", 0, most_elements * element),
           in.integer(numbers[2], "start", 0, numel), in.integer(numbers[3], "count", 1, numel)});
    }
  }
  by_kind.finish();
  in.finish();
  return tensor;
}

/// Empty when everything tiles.
std::string tile_problem(const Manifest& manifest) {
  std::vector<std::vector<IndexRange>> in_files(manifest.files.size());
  for (const ManifestTensor& tensor : manifest.tensors) {
    for (std::size_t kind = 0; kind < tensor.pieces.size(); ++kind) {
      std::int64_t end = 0;
      for (const Piece& piece : tensor.pieces[kind]) {
        if (piece.start != end)
          return fmt::format("tensor {}: {}: element {} follows element {}", tensor.name,
                             manifest.kinds[kind], piece.start, end);
        end += piece.count;
        in_files[piece.file].push_back({piece.offset, piece.offset + piece.count * element});
      }
      if (end != tensor.shape.numel())
        return fmt::format("tensor {}: {}: {} of {} elements", tensor.name, manifest.kinds[kind],
                           end, tensor.shape.numel());
    }
  }
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    auto& ranges = in_files[f];
    std::sort(ranges.begin(), ranges.end(),
              [](const IndexRange& a, const IndexRange& b) { return a.begin < b.begin; });
    std::int64_t end = 0;
    for (const IndexRange& range : ranges) {
      if (range.begin != end)
        return fmt::format("{}: a tensor at byte {} follows byte {}", manifest.files[f].name,
                           range.begin, end);
      end = range.end;
    }
    if (end != manifest.files[f].bytes)
      return fmt::format("{}: tensors end at byte {} of {}", manifest.files[f].name, end,
                         manifest.files[f].bytes);
  }
  return {};
}

}  // namespace

int Manifest::kind(std::string_view name) const {
  const auto at = std::find(kinds.begin(), kinds.end(), name);
  return at == kinds.end() ? -1 : static_cast<int>(at - kinds.begin());
}

std::string shard_name(int rank, int world_size) {
  return fmt::format("shard-{:05d}-of-{:05d}.bin", rank, world_size);
}

std::vector<TensorRun> runs_of(const ParameterTable& table, const std::vector<ShardPiece>& pieces) {
  std::vector<TensorRun> runs;
  const auto order = table.completion_order();
  for (const ShardPiece& piece : pieces) {
    auto at = std::partition_point(order.begin(), order.end(), [&](ParamId id) {
      return table[id].offset + table[id].numel() <= piece.flat.begin;
    });
    for (; at != order.end() && table[*at].offset < piece.flat.end; ++at) {
      const Parameter& p = table[*at];
      const std::int64_t begin = std::max(p.offset, piece.flat.begin);
      const std::int64_t end = std::min(p.offset + p.numel(), piece.flat.end);
      if (begin < end)
        runs.push_back(
            {*at, begin - p.offset, end - begin, piece.local + (begin - piece.flat.begin)});
    }
  }
  return runs;
}

void check_tiles(const Manifest& manifest) {
  const std::string problem = tile_problem(manifest);
  STRATA_CHECK(problem.empty(), "checkpoint of step {}: {}", manifest.step, problem);
}

std::string to_text(const Manifest& manifest) {
  ordered_json out;
  out["format"] = format_name;
  out["version"] = format_version;
  out["step"] = manifest.step;
  out["world_size"] = manifest.world_size;
  out["config_hash"] = manifest.config_hash;
  out["model_hash"] = manifest.model_hash;
  out["host"] = parse_json(manifest.host_json, "host state");
  out["kinds"] = manifest.kinds;
  out["block_bytes"] = block_bytes;
  for (const File& file : manifest.files)
    out["files"].push_back(ordered_json{{"name", file.name},
                                        {"bytes", file.bytes},
                                        {"sha256", file.sha256},
                                        {"crc32c", file.crc32c}});
  std::string body = out.dump();
  body.pop_back();  // the closing brace: tensors follow, one a line
  body += ",\n\"tensors\": [";
  for (std::size_t t = 0; t < manifest.tensors.size(); ++t) {
    const ManifestTensor& tensor = manifest.tensors[t];
    ordered_json pieces = ordered_json::object();
    for (std::size_t kind = 0; kind < manifest.kinds.size(); ++kind) {
      auto& list = pieces[manifest.kinds[kind]] = ordered_json::array();
      for (const Piece& p : tensor.pieces[kind])
        list.push_back({p.file, p.offset, p.start, p.count});
    }
    const ordered_json line{{"name", tensor.name},
                            {"dtype", "f32"},
                            {"shape", std::vector(tensor.shape.begin(), tensor.shape.end())},
                            {"layout", layout_name(tensor.layout)},
                            {"numel", tensor.shape.numel()},
                            {"pieces", pieces}};
    body += (t == 0 ? "\n" : ",\n") + line.dump();
  }
  body += "]";
  return body + trailer(body);
}

std::string manifest_hash(std::string_view text) {
  STRATA_CHECK(text.size() >= trailer_bytes);
  return std::string(text.substr(text.size() - trailer_end.size() - hash_digits, hash_digits));
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  if (text.size() < trailer_bytes) fail(Exit::data, "{}: only {} bytes", path, text.size());
  const std::string_view body = text.substr(0, text.size() - trailer_bytes);
  if (text.substr(body.size()) != trailer(body))
    fail(Exit::data, "{}: the content does not have the SHA-256 of its last line", path);
  const json all = parse_json(text, path);
  JsonObject in(all, path);
  if (in.text("format") != format_name) fail(Exit::data, "{}: not a checkpoint", path);
  if (const auto version = in.integer("version", 0, 1'000'000); version != format_version)
    fail(Exit::data, "{}: format version {}, this program reads {}", path, version, format_version);
  Manifest manifest;
  manifest.step = in.integer("step", 0, most_elements);
  manifest.world_size = static_cast<int>(in.integer("world_size", 1, 99'999));
  manifest.config_hash = in.text("config_hash");
  manifest.model_hash = in.text("model_hash");
  const json& host = in.take("host");
  if (!host.is_object()) in.refuse("host", "is not an object");
  manifest.host_json = host.dump();
  in.integer("block_bytes", block_bytes, block_bytes);
  for (const json& kind : in.array("kinds")) {
    if (!kind.is_string() || manifest.kind(kind.get<std::string>()) >= 0)
      fail(Exit::data, "{}: \"kinds\" are not different strings", path);
    manifest.kinds.push_back(kind.get<std::string>());
  }
  const json& files = in.array("files");
  if (files.size() != static_cast<std::size_t>(manifest.world_size))
    fail(Exit::data, "{}: {} files of {} ranks", path, files.size(), manifest.world_size);
  for (int rank = 0; rank < manifest.world_size; ++rank)
    manifest.files.push_back(
        parse_file(JsonObject(files[rank], fmt::format("{}: files[{}]", path, rank)), rank,
                   manifest.world_size));
  std::unordered_set<std::string> names;
  const json& tensors = in.array("tensors");
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    JsonObject tensor(tensors[t], fmt::format("{}: tensors[{}]", path, t));
    manifest.tensors.push_back(parse_tensor(tensor, manifest));
    if (!names.insert(manifest.tensors.back().name).second)
      fail(Exit::data, "{}: tensor {} occurs twice", path, manifest.tensors.back().name);
  }
  in.take("sha256");  // compared above
  in.finish();
  const std::string problem = tile_problem(manifest);
  if (!problem.empty()) fail(Exit::data, "{}: {}", path, problem);
  return manifest;
}

}  // namespace strata::checkpoint
