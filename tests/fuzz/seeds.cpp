// Writes the seeds of every fuzz target: small sound files, made by the product's own writers,
// taken from the tests' goldens, or written by hand (tests/fuzz/seeds). usage: fuzz_seeds SOURCES
// FOLDER -> FOLDER/TARGET/...

#include <archive.h>
#include <archive_entry.h>

#include <filesystem>

#include "../data/cache_fixture.hpp"
#include "core/buffer.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/cache_writer.hpp"
#include "evaluate/base64.hpp"
#include "shard_input.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/config.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t largest_seed = 1 << 16;

class Seeds {
 public:
  Seeds(std::string sources, std::string folder)
      : sources_(std::move(sources)), folder_(std::move(folder)) {}

  void put(const std::string& target, std::string_view bytes) {
    make_directories(folder_ + "/" + target);
    write_file_atomically(fmt::format("{}/{}/{:03}", folder_, target, number_++), bytes);
  }
  void take(const std::string& target, const std::string& path) {
    if (fs::file_size(path) <= largest_seed) put(target, read_file(path));
  }
  /// Every file of that name or ending below a folder of the sources.
  void take_all(const std::string& target, const std::string& under, const std::string& ending) {
    std::vector<std::string> paths;
    for (const auto& entry : fs::recursive_directory_iterator(sources_ + "/" + under))
      if (entry.is_regular_file() && entry.path().string().ends_with(ending))
        paths.push_back(entry.path().string());
    std::sort(paths.begin(), paths.end());
    for (const std::string& path : paths) take(target, path);
  }
  /// Those below tests/fuzz/seeds, which lie in folders named as the targets.
  void take_written() {
    for (const auto& folder : fs::directory_iterator(sources_ + "/tests/fuzz/seeds")) {
      const std::string target = folder.path().filename().string();
      take_all(target, "tests/fuzz/seeds/" + target, "");
    }
  }
  std::string scratch(const std::string& name) const {
    make_directories(folder_ + "/.scratch");
    return folder_ + "/.scratch/" + name;
  }
  const std::string& sources() const { return sources_; }
  ~Seeds() {
    std::error_code error;
    fs::remove_all(folder_ + "/.scratch", error);
  }

 private:
  std::string sources_, folder_;
  int number_ = 0;
};

void weights(Seeds& seeds) {
  const std::string path = seeds.scratch("weights");
  SafetensorsWriter writer;
  for (const auto& [name, type] :
       {std::pair("a.weight", DType::f32), {"b", DType::bf16}, {"ids", DType::i64}}) {
    Buffer tensor(type, {2, 3});
    std::fill_n(tensor.tensor().data, tensor.tensor().bytes(), std::byte{1});
    writer.add(name, std::move(tensor));
  }
  writer.set_metadata({{"format", "pt"}});
  writer.write(path);
  seeds.take("safetensors", path);
  const std::string first = "model-00001-of-00002.safetensors",
                    second = "model-00002-of-00002.safetensors";
  seeds.put(
      "safetensors_index",
      fmt::format(R"({{"metadata": {{"total_size": 16}}, "weight_map": {{"a": "{}", "b": "{}"}}}})",
                  first, second));
}

void checkpoint_manifest(Seeds& seeds) {
  checkpoint::Manifest m;
  m.step = 10;
  m.world_size = 2;
  m.config_hash = m.model_hash = std::string(64, 'a');
  m.host_json = R"({"step": 10, "updates": 10})";
  m.kinds = {"master", "m"};
  m.files = {{checkpoint::shard_name(0, 2), 48, std::string(64, 'b'), {1}},
             {checkpoint::shard_name(1, 2), 16, std::string(64, 'c'), {2}}};
  m.tensors = {{"w", {2, 3}, ParamLayout::plain, {{{0, 0, 0, 6}}, {{0, 24, 0, 6}}}},
               {"b", {2}, ParamLayout::plain, {{{1, 0, 0, 2}}, {{1, 8, 0, 2}}}}};
  const std::string text = checkpoint::to_text(m);
  seeds.put("checkpoint_manifest", text.substr(0, text.rfind(",\n\"sha256\"")));
}

/// manifest.json in the forms that the two of `caches` do not have.
void cache_manifests(Seeds& seeds) {
  CachePlan moments = moments_plan(2), quantized = text_plan(3, CacheDType::int8);
  for (CachePlan* plan : {&moments, &quantized}) {
    CacheManifest& manifest = plan->manifest;
    manifest.tokens = plan == &quantized ? 4 : 0;
    ShardRecord shard;
    shard.file = shard_name(0);
    shard.count = manifest.count;
    shard.tokens = manifest.tokens;
    manifest.shards = {shard};
    seeds.put("cache_manifest", manifest.to_json());
  }
}

/// Two rows, three tokens: what the target `shard` asks for.
void cache(Seeds& seeds, const CachePlan& plan, const std::vector<std::int64_t>& tokens) {
  const std::string dir = seeds.scratch(std::to_string(plan.pooled_dim) + plan.manifest.strategy);
  CacheBuilder builder(dir, plan);
  builder.prepare();
  const std::vector<std::int64_t> ids{0, 1};
  auto writer = builder.begin_shard(0, ids, tokens);
  const std::vector<float> values(16, 0.5f);
  for (std::int64_t row = 0; row < 2; ++row)
    writer.append(tokens.empty() ? view_of(values.data(), {4, 2, 2})
                                 : view_of(values.data(), {tokens[row], 4}),
                  plan.pooled_dim ? view_of(values.data(), {plan.pooled_dim}) : Tensor{});
  writer.finish();
  builder.publish();
  seeds.take("cache_manifest", dir + "/manifest.json");
  seeds.put("shard", fuzz::shard_input(read_file(dir + "/shard-00000.h5")));
}

void caches(Seeds& seeds) {
  CachePlan latents = latent_plan(2, CacheDType::bfloat16);
  latents.manifest.shape = {4, 2, 2};
  cache(seeds, latents, {});
  for (const auto& [dtype, pooled] : {std::pair(CacheDType::bfloat16, 0), {CacheDType::int8, 5}}) {
    CachePlan texts = text_plan(2, dtype, pooled);
    texts.manifest.dim = 4;
    texts.manifest.shape = {4};
    cache(seeds, texts, {1, 2});
  }
}

void configs(Seeds& seeds) {
  const std::string all = to_toml(TrainConfig{}, false);
  seeds.put("config_toml", all);
  for (std::size_t begin = 0; begin < all.size();) {  // a table each
    const std::size_t end = std::min(all.find("\n[", begin), all.size() - 1) + 1;
    seeds.put("config_toml", all.substr(begin, end - begin));
    begin = end;
  }
  seeds.put(
      "config_toml",
      "[data]\nalso_in = [\"a\", 'b']\n[train]\nbetas = [0.9, 0.999]\nlr = 1e-4\nsteps = 0x10\n");
  seeds.put("config_toml",
            "train.batch = 8\n[train]\nlr = inf\n[[data]]\nx = {a.b.c = 1979-05-27T07:32:00Z}\n");
  for (const char* folder :
       {"configs/models", "configs/miniature", "data/miniature", "tests/golden"})
    for (const char* name : {"/config.json", "/scheduler_config.json"})
      seeds.take_all("model_config", folder, name);
}

void texts(Seeds& seeds) {
  seeds.put(
      "prompts",
      R"({"id": "00000", "prompt": "a red circle", "upsampled": "A red one.", "skills": ["color"]})"
      "\n"
      R"({"id": "../x", "prompt": "b"})"
      "\n");
  seeds.put("prompts", "a red circle\na blue square\n");
  seeds.put(
      "prompts",
      "{\n\"00000\": {\"prompt\": \"a\", \"id\": \"00000\"},\n\"00001\": {\"prompt\": \"b\"}\n}\n");
  seeds.put("index_jsonl",
            R"({"image": "a.jpg", "caption": "one", "captions": ["one", "two"]})"
            "\n"
            R"({"image": "s.tar::b.jpg", "caption": "c", "offset": 512, "bytes": 100})"
            "\n"
            R"({"image": null, "caption": "alone"})"
            "\n");
}

void tokenizers(Seeds& seeds) {
  seeds.take_all("tokenizer_json", "tests/golden/text", "/tokenizer.json");
  seeds.take_all("tokenizer_json", "data/miniature", "/tokenizer.json");
  for (const char* file : {"/tokenizer.model", "/spiece.model"})
    seeds.take_all("sentencepiece_model", "tests/golden/text", file);
  for (const char* family : {"clip_files", "gpt2_files", "qwen2_files"}) {
    const std::string folder = seeds.sources() + "/tests/golden/text/" + family;
    std::string all;
    for (const char* file : {"/vocab.json", "/merges.txt", "/tokenizer_config.json"})
      all += (all.empty() ? "" : "\n----\n") + read_file(folder + file);
    seeds.put("vocabulary_files", all);
  }
}

/// precompiled_charsmap with one rule, "A" to "b", in a trie of the smallest size.
std::string charsmap() {
  std::array<std::uint32_t, 256> units{};
  constexpr std::uint32_t has_leaf = 1 << 8, leaf = 128;
  units['A'] = 'A' | has_leaf | ('A' ^ leaf) << 10;
  units[leaf] = std::uint32_t{1} << 31;
  const std::uint32_t bytes = sizeof units;
  const auto raw = [](const auto& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  };
  return raw(bytes) + raw(units) + std::string("b\0", 2);
}

/// A field of a protocol buffer: of bytes, or an integer below 128.
std::string field(int number, std::string_view bytes) {
  std::string length;
  std::size_t rest = bytes.size();
  for (; rest >= 0x80; rest >>= 7) length += static_cast<char>(rest | 0x80);
  length += static_cast<char>(rest);
  return static_cast<char>(number << 3 | 2) + length + std::string(bytes);
}
std::string field(int number, int integer) {
  return {static_cast<char>(number << 3), static_cast<char>(integer)};
}

/// model_type: 1 unigram, 2 BPE.
std::string sentence_piece_model(int model_type, bool has_charsmap) {
  std::string model;
  int score = 0;
  for (const auto& [text, type] : {std::pair("<unk>", 2),
                                   {"<s>", 3},
                                   {"</s>", 3},
                                   {"\u2581", 1},
                                   {"\u2581A", 1},
                                   {"A", 1},
                                   {"r", 1},
                                   {"e", 1},
                                   {"d", 1},
                                   {"re", 1},
                                   {"red", 4}}) {
    const float value = static_cast<float>(score--);
    std::string piece = field(1, text);
    piece += static_cast<char>(2 << 3 | 5);
    piece.append(reinterpret_cast<const char*>(&value), sizeof value);
    model += field(1, piece + field(3, type));
  }
  model += field(2, field(3, model_type));
  return model + field(3, (has_charsmap ? field(2, charsmap()) : "") + field(3, 1));
}

/// Small ones, so that a mutant often hits something that matters.
void small_tokenizers(Seeds& seeds) {
  for (const int model_type : {1, 2})
    for (const bool has_charsmap : {false, true})
      seeds.put("sentencepiece_model", sentence_piece_model(model_type, has_charsmap));
  seeds.put("tokenizer_json",
            fmt::format(R"({{"normalizer": {{"type": "Precompiled", "precompiled_charsmap": "{}"}},
"model": {{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["b", -1]]}}}})",
                        base64(charsmap())));
}

void tar(Seeds& seeds) {
  const std::string path = seeds.scratch("shard.tar");
  for (const auto format : {archive_write_set_format_ustar, archive_write_set_format_pax,
                            archive_write_set_format_gnutar}) {
    archive* out = archive_write_new();
    format(out);
    archive_write_open_filename(out, path.c_str());
    for (const auto& [name, text] : {std::pair("000.jpg", "\xff\xd8\xff"),
                                     {"000.txt", "a red circle"},
                                     {"001.json", "{\"caption\": \"b\"}"},
                                     {"001.png", "x"}}) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, name);
      archive_entry_set_size(entry, static_cast<la_int64_t>(std::string_view(text).size()));
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_entry_set_perm(entry, 0644);
      archive_write_header(out, entry);
      archive_write_data(out, text, std::string_view(text).size());
      archive_entry_free(entry);
    }
    archive_write_free(out);
    seeds.take("tar", path);
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  using namespace strata;
  Seeds seeds(argv[1], argv[2]);
  weights(seeds);
  checkpoint_manifest(seeds);
  caches(seeds);
  configs(seeds);
  texts(seeds);
  cache_manifests(seeds);
  tokenizers(seeds);
  small_tokenizers(seeds);
  tar(seeds);
  seeds.take_written();
  for (const char* ending : {".jpg", ".png", ".webp"})
    seeds.take_all("image", "tests/golden/image", ending);
  return 0;
}
