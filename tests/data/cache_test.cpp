// Caches: what is written comes back, damage never does, and kills leave no trace.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "cache_fixture.hpp"
#include "core/buffer.hpp"
#include "core/error.hpp"
#include "data/cache_reader.hpp"
#include "temporary_folder.hpp"

namespace strata {
namespace {

/// The exit code of the Error that fn throws; -1 when it throws none.
template <class Function>
int code_of(Function fn, std::string* what = nullptr) {
  try {
    fn();
  } catch (const Error& e) {
    if (what) *what = e.what();
    return static_cast<int>(e.code());
  }
  return -1;
}

/// Half of the distance between neighbours at 2 or less, the largest value of the fixture.
float tolerance(CacheDType dtype) {
  switch (dtype) {
    case CacheDType::bfloat16:
      return 0x1p-8f;
    case CacheDType::float16:
      return 0x1p-11f;
    case CacheDType::float32:
      return 0;
    case CacheDType::int8:
      return 2.0f / 127 / 2 * 1.0001f;
  }
  return 0;
}

void expect_fixture(const CacheReader& cache, std::int64_t pooled_dim) {
  const CacheManifest& m = cache.manifest();
  const float error = tolerance(m.dtype);
  for (std::int64_t row = 0; row < cache.rows(); ++row) {
    const std::int64_t sample = cache.samples()[row];
    EXPECT_EQ(cache.find(sample), row);
    std::vector<float> values(static_cast<std::size_t>(cache.tokens(row) * m.elements())),
        pooled(8);
    cache.read_row(row, values.data(), pooled.data());
    for (std::size_t e = 0; e < values.size(); ++e)
      ASSERT_NEAR(values[e], fixture_value(sample, std::int64_t(e)), error) << sample << " " << e;
    for (std::int64_t e = 0; e < pooled_dim; ++e)
      ASSERT_NEAR(pooled[e], fixture_value(sample + 1000, e),
                  m.dtype == CacheDType::int8 ? 0 : error);
  }
}

TEST(Cache, TextComesBackInEveryDType) {
  for (auto dtype :
       {CacheDType::bfloat16, CacheDType::float16, CacheDType::float32, CacheDType::int8}) {
    for (std::int64_t pooled_dim : {0, 3}) {
      const TemporaryFolder folder;
      write_cache(folder / "cache", text_plan(17, dtype, pooled_dim));
      const CacheReader cache(folder / "cache");
      EXPECT_EQ(cache.rows(), 17);
      EXPECT_EQ(cache.pooled_dim(), pooled_dim);
      EXPECT_EQ(cache.provenance(), "seed=17");
      EXPECT_EQ(cache.manifest().shards.size(), 3u);
      EXPECT_EQ(cache.manifest().tokens, 24);
      EXPECT_EQ(cache.tokens(7), 3);
      EXPECT_EQ(cache.find(17), -1);
      expect_fixture(cache, pooled_dim);
      verify_cache(folder / "cache");
    }
  }
}

TEST(Cache, LatentsComeBackInEveryDType) {
  for (auto dtype : {CacheDType::bfloat16, CacheDType::float16, CacheDType::float32}) {
    const TemporaryFolder folder;
    write_cache(folder / "cache", latent_plan(20, dtype));
    const CacheReader cache(folder / "cache");
    EXPECT_TRUE(cache.manifest().latent_scaled);
    expect_fixture(cache, 0);
    verify_cache(folder / "cache");
  }
}

TEST(Cache, Int8SaysWhatRoundingTookAway) {
  const TemporaryFolder folder;
  write_cache(folder / "int8", text_plan(7, CacheDType::int8));  // one shard
  const CacheReader cache(folder / "int8");
  double lost = 0, total = 0;
  for (std::int64_t row = 0; row < cache.rows(); ++row) {
    std::vector<float> values(static_cast<std::size_t>(cache.tokens(row)) * 5), pooled(3);
    cache.read_row(row, values.data(), pooled.data());
    for (std::size_t e = 0; e < values.size(); ++e) {
      const double exact = fixture_value(cache.samples()[row], std::int64_t(e));
      lost += (exact - values[e]) * (exact - values[e]);
      total += exact * exact;
    }
  }
  EXPECT_GT(lost, 0);
  EXPECT_NEAR(cache_stats(cache).storage_error, std::sqrt(lost / total), 1e-9);
  write_cache(folder / "bf16", text_plan(7, CacheDType::bfloat16));
  EXPECT_EQ(cache_stats(CacheReader(folder / "bf16")).storage_error, 0);
}

TEST(Cache, ACaptionCacheWithoutAnyTokenIsReadable) {
  const TemporaryFolder folder;
  CachePlan plan = text_plan(1, CacheDType::bfloat16);  // sample 0 has no tokens
  write_cache(folder / "cache", plan);
  const CacheReader cache(folder / "cache");
  EXPECT_EQ(cache.tokens(0), 0);
  float pooled[3];
  cache.read_row(0, nullptr, pooled);
  EXPECT_NEAR(pooled[1], fixture_value(1000, 1), 0x1p-8f);
}

TEST(Cache, ManifestHasExactlyTheAgreedKeys) {
  const TemporaryFolder folder;
  write_cache(folder / "cache", text_plan(9, CacheDType::bfloat16));
  const std::string json = read_file(folder / "cache/manifest.json");
  for (const char* key : {"format",
                          "kind",
                          "count",
                          "tokens",
                          "dim",
                          "shape",
                          "dtype",
                          "strategy",
                          "max_tokens",
                          "attention",
                          "model",
                          "weights_sha256",
                          "tokenizer_sha256",
                          "index_sha256",
                          "latent_kind",
                          "latent_scaled",
                          "shards",
                          "file",
                          "bytes",
                          "sha256",
                          "meta_sha256"})
    EXPECT_NE(json.find('"' + std::string(key) + '"'), std::string::npos) << key;
  const CacheManifest manifest = CacheManifest::parse(json, "manifest");
  EXPECT_EQ(manifest.to_json(), json);
  std::string extra = json;
  extra.replace(extra.find("\"kind\""), 6, "\"more\": 1, \"kind\"");
  EXPECT_EQ(code_of([&] { CacheManifest::parse(extra, "m"); }), 65);
  std::string fewer = json;
  fewer.replace(fewer.find("\"count\": 9"), 10, "\"count\": 8");
  EXPECT_EQ(code_of([&] { CacheManifest::parse(fewer, "m"); }), 65);
}

/// Opens the cache and reads all of it.
void read_all(const std::string& dir) {
  const CacheReader cache(dir);
  std::vector<float> values(64), pooled(8);
  for (std::int64_t row = 0; row < cache.rows(); ++row)
    cache.read_row(row, values.data(), pooled.data());
}

TEST(Cache, NoSingleBitFlipIsSilent) {
  for (const bool is_text : {true, false}) {
    const TemporaryFolder folder;
    const std::string dir = folder / "cache";
    write_cache(dir,
                is_text ? text_plan(9, CacheDType::bfloat16) : latent_plan(9, CacheDType::float16));
    const std::string path = dir + "/shard-00000.h5";
    const std::string whole = read_file(path);
    const std::size_t values = is_text ? 9 * 10 : 8 * 24 * 2;  // bytes of /values at the file's end
    std::vector<std::size_t> places;
    for (std::size_t at = 0; at < whole.size() - values; at += 23) places.push_back(at);
    for (std::size_t at = whole.size() - values; at < whole.size(); ++at) places.push_back(at);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    std::int64_t silent = 0, unnamed = 0;
    for (std::size_t at : places) {
      const char damaged = static_cast<char>(whole[at] ^ (1 << (at * 5 % 8)));
      file.seekp(static_cast<std::streamoff>(at)).put(damaged).flush();
      std::string what;
      const int code = code_of([&] { read_all(dir); }, &what);
      silent += code != 65;
      unnamed += what.find("shard-00000.h5") == std::string::npos;
      if (at >= whole.size() - values) unnamed += what.find("sample ") == std::string::npos;
      file.seekp(static_cast<std::streamoff>(at)).put(whole[at]).flush();
    }
    EXPECT_GT(places.size(), 500u);
    EXPECT_EQ(silent, 0) << "of " << places.size();
    EXPECT_EQ(unnamed, 0);
    read_all(dir);
  }
}

TEST(Cache, WhatTheManifestSaysOfAllShardsCannotChangeUnseen) {
  const TemporaryFolder folder;
  const std::string dir = folder / "cache", path = dir + "/manifest.json";
  write_cache(dir, text_plan(9, CacheDType::bfloat16));
  const std::string whole = read_file(path);
  for (const auto& [from, to] : {std::pair("\"last\"", "\"lasd\""),
                                 {"\"causal\"", "\"causam\""},
                                 {"tiny", "tinx"},
                                 {": 77", ": 76"},
                                 {"\"aaaa", "\"baaa"}}) {
    std::string changed = whole;
    const std::size_t at = changed.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    std::ofstream(path) << changed.replace(at, std::string(from).size(), to);
    std::string what;
    EXPECT_EQ(code_of([&] { CacheReader{dir}; }, &what), 65) << from;
    EXPECT_NE(what.find("shard-00000.h5: is not of this manifest.json"), std::string::npos) << what;
  }
  std::ofstream(path) << whole;
  read_all(dir);
}

TEST(Cache, OtherDamageIsNamed) {
  const TemporaryFolder folder;
  const std::string dir = folder / "cache", first = dir + "/shard-00000.h5",
                    second = dir + "/shard-00001.h5";
  write_cache(dir, latent_plan(16, CacheDType::float32));
  const std::string whole = read_file(first), other = read_file(second);
  for (const std::string& damaged : {whole.substr(0, whole.size() - 1), whole.substr(0, 100),
                                     std::string(), whole + "x", other}) {
    std::ofstream(first, std::ios::binary) << damaged;
    EXPECT_EQ(code_of([&] { read_all(dir); }), 65);
  }
  std::filesystem::remove(first);
  EXPECT_EQ(code_of([&] { read_all(dir); }), 65);
  // Whole rows exchanged along with nothing else: the CRC covers the id.
  std::string swapped = whole;
  const std::size_t row = 24 * 4, begin = whole.size() - 8 * row;
  std::swap_ranges(swapped.begin() + begin, swapped.begin() + begin + row,
                   swapped.begin() + begin + row);
  std::ofstream(first, std::ios::binary) << swapped;
  std::string what;
  EXPECT_EQ(code_of([&] { read_all(dir); }, &what), 65);
  EXPECT_NE(what.find("sample 0"), std::string::npos) << what;
  EXPECT_EQ(code_of([&] { verify_cache(dir); }), 65);
}

TEST(CacheBuilder, AKilledRunContinuesToTheSameBytes) {
  const TemporaryFolder folder;
  const CachePlan plan = text_plan(40, CacheDType::bfloat16);
  write_cache(folder / "whole", plan);
  const std::string dir = folder / "killed";
  for (std::int64_t kill_at : {0, 3, 1, 4}) {  // in that shard, after three rows
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      CacheBuilder builder(dir, plan);
      builder.prepare();
      for (std::int64_t shard : builder.missing_shards()) {
        if (shard == kill_at) {
          write_shard(builder, shard, 3);
          raise(SIGKILL);
        }
        write_shard(builder, shard);
      }
      raise(SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    EXPECT_FALSE(file_exists(dir + "/manifest.json"));
    EXPECT_EQ(code_of([&] { CacheReader reader(dir); }), 65);
  }
  write_cache(dir, plan);
  EXPECT_EQ(contents_of(dir), contents_of(folder / "whole"));
  EXPECT_FALSE(directory_exists(dir + "/.partial"));
}

TEST(CacheBuilder, RowsMayComeInAnyOrderButOnce) {
  const TemporaryFolder folder;
  for (const CachePlan& plan :
       {text_plan(20, CacheDType::bfloat16), latent_plan(20, CacheDType::float32)}) {
    const std::string name = plan.manifest.shape.size() == 1 ? "text" : "latents";
    write_cache(folder / name, plan);
    CacheBuilder builder(folder / ("backwards-" + name), plan);
    builder.prepare();
    for (const std::int64_t shard : builder.missing_shards()) write_shard(builder, shard, -1, true);
    builder.publish();
    EXPECT_EQ(contents_of(folder / name), contents_of(folder / ("backwards-" + name)));
  }
  CacheBuilder builder(folder / "twice", latent_plan(2, CacheDType::float32));
  builder.prepare();
  ShardWriter writer = builder.begin_shard(0, std::vector<std::int64_t>{0, 1});
  const Buffer row = Buffer::zeros(DType::f32, {24});
  writer.put(1, row);
  EXPECT_EQ(code_of([&] { writer.put(1, row); }), 70);
  EXPECT_EQ(code_of([&] { writer.put(2, row); }), 70);
  EXPECT_EQ(code_of([&] { writer.finish(); }), 70);
}

TEST(CacheBuilder, AKillWhilePublishingLosesNothing) {
  const TemporaryFolder folder;
  const CachePlan plan = latent_plan(20, CacheDType::bfloat16);
  write_cache(folder / "whole", plan);
  const std::string dir = folder / "cache";
  {
    CacheBuilder builder(dir, plan);
    builder.prepare();
    for (std::int64_t shard : builder.missing_shards()) write_shard(builder, shard);
  }
  // As a kill between the second shard's rename and the third's leaves it.
  for (const char* shard : {"shard-00000.h5", "shard-00001.h5"})
    std::filesystem::rename(dir + "/.partial/" + shard, dir + "/" + shard);
  CacheBuilder builder(dir, plan);
  EXPECT_EQ(builder.prepare(), CacheBuilder::Status::open);
  EXPECT_TRUE(builder.missing_shards().empty());
  builder.publish();
  EXPECT_EQ(contents_of(dir), contents_of(folder / "whole"));
}

TEST(CacheBuilder, DamagedRestIsBuiltAgain) {
  const TemporaryFolder folder;
  const CachePlan plan = latent_plan(20, CacheDType::bfloat16);
  const std::string dir = folder / "cache";
  CacheBuilder builder(dir, plan);
  builder.prepare();
  for (std::int64_t shard : builder.missing_shards()) write_shard(builder, shard);
  std::filesystem::resize_file(dir + "/.partial/shard-00001.h5", 100);
  std::ofstream(dir + "/.partial/shard-00002.h5.json") << "{\"file\": \"shard";
  EXPECT_EQ(builder.missing_shards(), (std::vector<std::int64_t>{1, 2}));
}

TEST(CacheBuilder, RefusesWhatIsNotItsOwn) {
  const TemporaryFolder folder;
  const std::string dir = folder / "cache";
  CachePlan plan = text_plan(9, CacheDType::bfloat16);
  {
    CacheBuilder builder(dir, plan);
    builder.prepare();
    write_shard(builder, 0);
    EXPECT_EQ(code_of([&] { CacheBuilder(dir, plan).prepare(); }), 76);
  }
  CachePlan other = plan;
  other.details = "seed=18";
  EXPECT_EQ(code_of([&] { CacheBuilder(dir, other).prepare(); }), 78);
  write_cache(dir, plan);
  EXPECT_EQ(CacheBuilder(dir, plan).prepare(), CacheBuilder::Status::finished);
  EXPECT_FALSE(directory_exists(dir + "/.partial"));
  EXPECT_EQ(code_of([&] { CacheBuilder(dir, other).prepare(); }), 73);
  CacheBuilder replacing(dir, other);
  EXPECT_EQ(replacing.prepare(true), CacheBuilder::Status::open);
  EXPECT_EQ(replacing.missing_shards().size(), 2u);
  EXPECT_EQ(code_of([&] { CacheBuilder(folder / "none", text_plan(0, CacheDType::bfloat16)); }),
            65);
}

TEST(CacheBuilder, RefusesValuesThatAreNotFinite) {
  for (auto [dtype, value] : {std::pair{CacheDType::float16, 1e5f},
                              {CacheDType::bfloat16, 3.4e38f},
                              {CacheDType::float32, std::numeric_limits<float>::quiet_NaN()},
                              {CacheDType::int8, std::numeric_limits<float>::infinity()}}) {
    const TemporaryFolder folder;
    CacheBuilder builder(folder / "cache", text_plan(7, dtype, 0));
    builder.prepare();
    const std::vector<std::int64_t> samples{0, 1, 2, 3, 4, 5, 6}, tokens(7, 1);
    ShardWriter writer = builder.begin_shard(0, samples, tokens);
    std::vector<float> values(5, value);
    std::string what;
    EXPECT_EQ(code_of([&] { writer.append(view_of(values.data(), {1, 5})); }, &what), 65);
    EXPECT_NE(what.find("sample 0"), std::string::npos);
  }
}

TEST(CacheStats, CountsTokensAndMoments) {
  const TemporaryFolder folder;
  write_cache(folder / "cache", text_plan(10, CacheDType::float32, 0));
  const CacheStats stats = cache_stats(CacheReader(folder / "cache"));
  EXPECT_EQ(stats.count, 10);
  EXPECT_EQ(stats.tokens, 13);  // 0 1 2 3 0 1 2 3 0 1
  EXPECT_EQ(stats.token_histogram, (std::vector<std::int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(stats.nan, 0);
  double sum = 0;
  for (std::int64_t sample = 0; sample < 10; ++sample)
    for (std::int64_t e = 0; e < fixture_tokens(sample) * 5; ++e) sum += fixture_value(sample, e);
  EXPECT_NEAR(stats.mean, sum / (13 * 5), 1e-12);
  EXPECT_GT(stats.bytes, 13 * 5 * 4);
}

TEST(Half, RoundsToNearestEvenAndBack) {
  for (std::uint32_t half = 0; half < 0x10000; ++half) {
    const float wide = half_to_float(static_cast<std::uint16_t>(half));
    if (std::isnan(wide)) continue;
    EXPECT_EQ(float_to_half(wide), half);
    const float next = half_to_float(static_cast<std::uint16_t>(half + 1));
    if ((half & 0x7fff) >= 0x7bff || std::isnan(next)) continue;
    const float middle = (wide + next) / 2;  // exact in f32
    EXPECT_EQ(float_to_half(middle), half % 2 == 0 ? half : half + 1);
    EXPECT_EQ(float_to_half(std::nextafter(middle, wide)), half);
    EXPECT_EQ(float_to_half(std::nextafter(middle, next)), half + 1);
  }
  EXPECT_EQ(float_to_half(65519.9f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
}

}  // namespace
}  // namespace strata
