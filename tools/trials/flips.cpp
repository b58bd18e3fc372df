// Turns single bits of files, one at a time, and asks the product's own reader of each: is it
// refused, is it read as before, or is something else read without a word?
//
// One line of JSON a class of files:
//   {"class": ..., "bytes": ..., "flips": ..., "refused": ..., "same": ..., "silent": ...,
//   "noticed": ...}
// same: read, and everything as before. silent: read, and something differs. noticed: of the silent
// ones, those after which the hash that others record of this file is another.

#include <boost/program_options.hpp>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>

#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/cache_reader.hpp"
#include "data/image.hpp"
#include "data/index.hpp"
#include "evaluate/image_folder.hpp"
#include "evaluate/png.hpp"
#include "text/tokenizer.hpp"
#include "train/checkpoint.hpp"

namespace strata {
namespace {

namespace po = boost::program_options;

/// What a reader saw, as one hash.
class Seen {
 public:
  void add(std::string_view bytes) {
    const std::uint64_t size = bytes.size();
    hash_.update(&size, sizeof size);
    hash_.update(bytes.data(), bytes.size());
  }
  template <class T>
  void add_values(const std::vector<T>& values) {
    add({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
  }
  std::string hex() { return hash_.hex(); }

 private:
  Sha256 hash_;
};

/// All tensors of all kinds, whatever the ranks that saved them.
void add_tensors(Seen& seen, const CheckpointReader& reader) {
  for (const CheckpointTensor& tensor : reader.tensors())
    for (const std::string& kind : reader.info().kinds) {
      const Buffer values(DType::f32, tensor.shape);
      reader.read(tensor.name, kind, values);
      seen.add(tensor.name);
      seen.add({reinterpret_cast<const char*>(values.tensor().data), values.tensor().bytes()});
    }
}

std::string see_checkpoint(const std::string& folder) {
  Seen seen;
  const auto reader = CheckpointReader::open(folder);
  const CheckpointInfo& info = reader.info();
  seen.add(
      fmt::format("{} {} {} {}", info.step, info.world_size, info.config_hash, info.model_hash));
  seen.add(info.host_json);
  add_tensors(seen, reader);
  return seen.hex();
}

/// As training sees a cache: the manifest, every row, what is pooled.
std::string see_cache(const std::string& folder) {
  Seen seen;
  const CacheReader cache(folder);
  CacheManifest manifest = cache.manifest();
  for (ShardRecord& shard : manifest.shards) shard.sha256.clear();  // `cache verify` asks for these
  seen.add(manifest.to_json());
  seen.add(cache.provenance());
  std::vector<float> values, pooled(static_cast<std::size_t>(cache.pooled_dim()));
  for (std::int64_t row = 0; row < cache.rows(); ++row) {
    values.resize(static_cast<std::size_t>(cache.tokens(row) * cache.manifest().elements()));
    cache.read_row(row, values.data(), pooled.data());
    seen.add(fmt::format("{}", cache.samples()[static_cast<std::size_t>(row)]));
    seen.add_values(values);
    seen.add_values(pooled);
  }
  return seen.hex();
}

std::string verify(const std::string& folder) {
  verify_cache(folder);
  return see_cache(folder);
}

std::string see_index(const std::string& path) {
  Seen seen;
  const Index index = Index::load(path);
  for (std::int64_t i = 0; i < index.size(); ++i) {
    const IndexEntry& entry = index[i];
    seen.add(fmt::format("{} {} {}", entry.image, entry.offset, entry.bytes));
    for (const std::string& caption : entry.captions) seen.add(caption);
  }
  return seen.hex();
}

std::string see_weights(const std::string& path) {
  Seen seen;
  const SafetensorsFile file(path);
  for (const auto& [name, entry] : file.entries()) {
    const Buffer values = file.read_f32(name);
    seen.add(name + " " + to_string(values.tensor().shape));
    seen.add({reinterpret_cast<const char*>(values.tensor().data), values.tensor().bytes()});
  }
  return seen.hex();
}

std::string see_tokenizer(const std::string& folder) {
  Seen seen;
  const Tokenizer tokenizer = Tokenizer::load(folder);
  for (const char* text :
       {"a red circle above a blue square", "The  quick, brown fox! 123 ~", "<s>\u00e9\u4e2d"})
    seen.add_values(tokenizer.encode(text));
  return seen.hex();
}

std::string see_image(const std::string& path) {
  Seen seen;
  const DecodedPng png = decode_png(read_file(path), path);
  seen.add_values(png.image.rgb);
  for (const auto& [key, value] : png.text) seen.add(key + "=" + value);
  return seen.hex();
}

struct FileClass {
  std::string name, path;             // the file whose bits turn
  std::function<std::string()> see;   // throws Error, or gives a hash of all that was read
  std::function<std::string()> hash;  // what others record of the file; absent: nothing
  std::uint64_t begin = 0, end = 0;   // of the bytes that turn; end 0: all
};

struct Counts {
  std::int64_t flips = 0, refused = 0, same = 0, silent = 0, noticed = 0;
};

void flip(const std::string& path, std::uint64_t byte, int bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(byte));
  const int value = file.get();
  file.seekp(static_cast<std::streamoff>(byte));
  file.put(static_cast<char>(value ^ 1 << bit));
  file.close();
  STRATA_CHECK(file.good() && value >= 0, "{}: byte {}", path, byte);
}

Counts try_flips(const FileClass& files, std::int64_t count, std::mt19937_64& draw) {
  const std::uint64_t end = files.end ? files.end : read_file(files.path).size();
  const std::string right = files.see(), recorded = files.hash ? files.hash() : "";
  Counts counts;
  for (; counts.flips < count; ++counts.flips) {
    const std::uint64_t byte = files.begin + draw() % (end - files.begin);
    const int bit = static_cast<int>(draw() % 8);
    flip(files.path, byte, bit);
    try {
      if (files.see() == right) {
        ++counts.same;
      } else {
        ++counts.silent;
        if (files.hash && files.hash() != recorded) ++counts.noticed;
      }
    } catch (const Error& error) {
      if (error.code() == Exit::internal)
        fail(Exit::internal, "{}: byte {} bit {}: {}", files.path, byte, bit, error.what());
      ++counts.refused;
    }
    flip(files.path, byte, bit);
  }
  STRATA_CHECK(files.see() == right, "{}: not as before", files.path);
  return counts;
}

std::vector<FileClass> classes_in(const std::string& dir) {
  const std::string checkpoint = dir + "/checkpoint", latents = dir + "/latents",
                    text = dir + "/text";
  const std::string weights = dir + "/encoder/model.safetensors";
  const auto cache_hash = [](const std::string& cache) {
    return [cache] { return sha256_file(cache + "/manifest.json"); };
  };
  const auto meta_end = [](const std::string& cache) {
    const ShardRecord record = CacheManifest::load(cache).shards.front();
    const CacheManifest m = CacheManifest::load(cache);
    const auto rows = m.kind == CacheKind::text ? record.tokens : record.count;
    return static_cast<std::uint64_t>(record.bytes) -
           static_cast<std::uint64_t>(rows * m.elements()) * size_of(m.dtype);
  };
  std::vector<FileClass> all;
  all.push_back({"checkpoint shard",
                 checkpoint + "/shard-00000-of-00001.bin",
                 [=] { return see_checkpoint(checkpoint); },
                 {}});
  all.push_back({"checkpoint manifest",
                 checkpoint + "/MANIFEST.json",
                 [=] { return see_checkpoint(checkpoint); },
                 {}});
  for (const auto& [name, cache] : {std::pair("text", text), {"latent", latents}}) {
    const std::string shard = cache + "/shard-00000.h5";
    all.push_back({fmt::format("{} cache, values", name),
                   shard,
                   [cache = cache] { return see_cache(cache); },
                   {},
                   meta_end(cache)});
    all.push_back({fmt::format("{} cache, metadata", name),
                   shard,
                   [cache = cache] { return see_cache(cache); },
                   {},
                   0,
                   meta_end(cache)});
    all.push_back({fmt::format("{} cache, manifest", name), cache + "/manifest.json",
                   [cache = cache] { return see_cache(cache); }, cache_hash(cache)});
    all.push_back({fmt::format("{} cache, manifest, cache verify", name), cache + "/manifest.json",
                   [cache = cache] { return verify(cache); }, cache_hash(cache)});
  }
  const std::string index = dir + "/index.jsonl";
  all.push_back({"index.jsonl", index, [=] { return see_index(index); },
                 [=] { return Index::load(index).sha256(); }});
  all.push_back({"weights (safetensors)", weights, [=] { return see_weights(weights); },
                 [=] { return SafetensorsFolder(dir + "/encoder", "model").sha256(); }});
  all.push_back({"tokenizer.json", dir + "/encoder/tokenizer.json",
                 [=] { return see_tokenizer(dir + "/encoder"); },
                 [=] { return Tokenizer::load(dir + "/encoder").sha256(); }});
  const std::string image = dir + "/image.png";
  all.push_back({"image (PNG)", image, [=] { return see_image(image); }, {}});
  return all;
}

/// Empty where there is none.
std::string newest_sound(const std::string& root) {
  const auto names = list_checkpoints(root);
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    try {
      CheckpointReader::open(root + "/" + *name).verify();
      return *name;
    } catch (const Error&) {
      // the one before it
    }
  }
  return "";
}

int run(int argc, char** argv) {
  po::options_description options("strata_flips --dir DIR");
  options.add_options()("hash", po::value<std::string>(),
                        "prints a hash of this checkpoint's tensors")(
      "newest", po::value<std::string>(),
      "prints the name of the newest sound checkpoint below this folder")(
      "dir", po::value<std::string>(),
      "holds checkpoint/, text/, latents/, encoder/, index.jsonl, image.png; written to")(
      "count", po::value<std::int64_t>()->default_value(10000), "flips, over all classes alike")(
      "seed", po::value<std::uint64_t>()->default_value(1), "");
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, options), values);
  po::notify(values);
  if (values.count("hash") > 0) {
    Seen seen;
    add_tensors(seen, CheckpointReader::open(values["hash"].as<std::string>()));
    fmt::print("{}\n", seen.hex());
    return 0;
  }
  if (values.count("newest") > 0) {
    fmt::print("{}\n", newest_sound(values["newest"].as<std::string>()));
    return 0;
  }
  const auto classes = classes_in(values["dir"].as<std::string>());
  const std::int64_t each =
      values["count"].as<std::int64_t>() / static_cast<std::int64_t>(classes.size()) + 1;
  for (const FileClass& files : classes) {
    std::mt19937_64 draw(values["seed"].as<std::uint64_t>());
    const Counts c = try_flips(files, each, draw);
    fmt::print(
        R"({{"class": "{}", "bytes": {}, "flips": {}, "refused": {}, "same": {}, "silent": {}, "noticed": {}}})"
        "\n",
        files.name, read_file(files.path).size(), c.flips, c.refused, c.same, c.silent, c.noticed);
    std::cout.flush();
  }
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  try {
    return strata::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "strata_flips: " << error.what() << '\n';
    return 1;
  }
}
