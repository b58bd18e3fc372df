// `strata inspect`: what lies at a path, as JSON.

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/commands.hpp"
#include "commands/options.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "core/safetensors.hpp"
#include "data/cache_reader.hpp"
#include "data/hdf5_reader.hpp"
#include "data/index.hpp"

namespace strata::commands {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Ordered as in the file is not kept by the bounded parser: keys come sorted.
Json read_document(const std::string& path) {
  return Json::parse(read_json_file(path).dump());
}

Json describe_cache(const std::string& dir) {
  const CacheReader cache(dir);
  Json json{{"what", "cache"}, {"path", dir}};
  json["pooled_dim"] = cache.pooled_dim();
  json["provenance"] = cache.provenance();
  json["manifest"] = Json::parse(cache.manifest().to_json());
  return json;
}

/// One shard of a cache, or another file of its kind.
Json describe_hdf5(const std::string& path) {
  const Hdf5File file = read_hdf5(FileHandle::open_for_reading(path));
  Json json{{"what", "hdf5"}, {"path", path}, {"attributes", file.texts}};
  Json& datasets = json["datasets"] = Json::object();
  for (const auto& [name, dataset] : file.datasets) {
    Json& entry = datasets[name] = {{"type", nullptr}, {"shape", dataset.extents}};
    if (dataset.type) entry["type"] = name_of(*dataset.type);
    if (dataset.offset) entry["offset"] = *dataset.offset;
    entry["attributes"] = dataset.texts;
  }
  return json;
}

Json describe_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  Json json{{"what", "safetensors"}, {"path", path}, {"metadata", file.metadata()}};
  std::int64_t elements = 0;
  Json tensors = Json::object();
  for (const auto& [name, entry] : file.entries()) {
    std::int64_t count = 1;
    for (std::int64_t extent : entry.shape) count *= extent;
    elements += count;
    tensors[name] = {{"dtype", entry.dtype}, {"shape", entry.shape}};
  }
  json["tensor_count"] = file.entries().size();
  json["elements"] = elements;
  json["tensors"] = std::move(tensors);
  return json;
}

Json describe_index(const std::string& path) {
  const Index index = Index::load(path);
  std::int64_t captions = 0, in_shards = 0, without_image = 0;
  for (std::int64_t i = 0; i < index.size(); ++i) {
    captions += std::ssize(index[i].captions);
    in_shards += index[i].offset >= 0 ? 1 : 0;
    without_image += index[i].image.empty() ? 1 : 0;
  }
  return {{"what", "index"},
          {"path", path},
          {"samples", index.size()},
          {"captions", captions},
          {"images_in_tar_shards", in_shards},
          {"without_image", without_image},
          {"sha256", index.sha256()},
          {"first", {{"image", index[0].image}, {"caption", index[0].caption}}}};
}

/// A model's or pipeline's folder: its configs and what weights lie in it.
Json describe_folder(const std::string& dir) {
  Json json{{"what", "folder"}, {"path", dir}};
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(dir)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string(), path = entry.string();
    if (name == "config.json" || name == "model_index.json" || name == "scheduler_config.json") {
      json["what"] = "model";
      json[name] = read_document(path);
    } else if (entry.extension() == ".safetensors") {
      const SafetensorsFile file(path);
      json["weights"][name] = {{"tensors", file.entries().size()}, {"bytes", fs::file_size(entry)}};
    } else if (fs::is_directory(entry) && file_exists(path + "/config.json")) {
      json["modules"][name] = describe_folder(path);
    } else {
      json["files"].push_back(name);
    }
  }
  return json;
}

Json describe(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (directory_exists(path)) {
    if (file_exists(path + "/MANIFEST.json"))
      return {{"what", "checkpoint"},
              {"path", path},
              {"manifest", read_document(path + "/MANIFEST.json")}};
    if (file_exists(path + "/provenance.json"))
      return {{"what", "run"},
              {"path", path},
              {"provenance", read_document(path + "/provenance.json")}};
    if (file_exists(path + "/manifest.json")) return describe_cache(path);
    return describe_folder(path);
  }
  if (!file_exists(path)) fail(Exit::data, "{}: no such file or folder", path);
  if (path.ends_with(".safetensors")) return describe_safetensors(path);
  if (path.ends_with(".jsonl")) return describe_index(path);
  if (path.ends_with(".json"))
    return {{"what", "json"}, {"path", path}, {"content", read_document(path)}};
  if (path.ends_with(".h5")) return describe_hdf5(path);
  fail(Exit::data,
       "{}: not a cache, index, checkpoint, model folder, HDF5, safetensors or JSON file", path);
}

}  // namespace

int inspect(const Arguments& arguments, Communicator&) {
  namespace po = boost::program_options;
  Options options(
      "inspect PATH [--json]",
      "Prints as JSON what a cache, index, checkpoint, run, model folder, HDF5 or safetensors file "
      "holds.",
      "strata inspect caches/latents");
  options.add()("path", po::value<std::string>(), "file or folder")("json", toggle(),
                                                                    "on one line");
  options.positional("path");
  if (!options.parse(arguments)) return 0;
  // Texts and names in an HDF5 file may be any bytes.
  std::cout << describe(options.text("path"))
                   .dump(options.flag("json") ? -1 : 2, ' ', false, Json::error_handler_t::replace)
            << "\n";
  return 0;
}

}  // namespace strata::commands
