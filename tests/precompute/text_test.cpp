// The text caches under mpirun: the same bytes on any number of ranks, and the encoder's own
// values.

#include <gtest/gtest.h>

#include <csignal>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/stop_signals.hpp"
#include "data/cache_reader.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/dist/job.hpp"
#include "text_fixture.hpp"

namespace strata {
namespace {

/// One folder for all ranks, made and removed by rank 0.
class TextCaches : public testing::Test {
 protected:
  void SetUp() override {
    if (world().rank() == 0) {
      folder_ = std::make_unique<TemporaryFolder>();
      write_caption_index(folder_->path());
    }
    dir_ = world().all_gather_strings(folder_ ? folder_->path() : "").front();
  }
  void TearDown() override { world().barrier(); }

  std::unique_ptr<TemporaryFolder> folder_;
  std::string dir_;
};

TEST_F(TextCaches, AreTheSameBytesOnAnyRanks) {
  EXPECT_TRUE(cache_text(text_options(dir_, "shared"), world()));
  EXPECT_FALSE(cache_text(text_options(dir_, "shared"), world()));
  if (world().rank() != 0) return;
  const auto alone = local_communicator();
  EXPECT_TRUE(cache_text(text_options(dir_, "alone"), *alone));
  EXPECT_EQ(contents_of(dir_ + "/shared"), contents_of(dir_ + "/alone"));
  for (const char* strategy : {"last", "layer_2", "norm_avg"})
    verify_cache(dir_ + "/shared/" + strategy);
  // Layer by layer, a pass for each few captions.
  TextCacheOptions streamed = text_options(dir_, "streamed");
  streamed.stream = true;
  streamed.pass_tokens = 300;
  EXPECT_TRUE(cache_text(streamed, *alone));
  EXPECT_EQ(contents_of(dir_ + "/streamed"), contents_of(dir_ + "/alone"));
  // Strategies one by one, the last of them later: the same caches as out of one pass.
  TextCacheOptions one = text_options(dir_, "single");
  one.strategies = {"layer:2"};
  EXPECT_TRUE(cache_text(one, *alone));
  one.strategies = {"last", "layer:2", "norm_avg"};
  EXPECT_TRUE(cache_text(one, *alone));
  EXPECT_EQ(contents_of(dir_ + "/single"), contents_of(dir_ + "/alone"));
}

/// Passes a batch ahead of what is written, on a device that is not there: all is there but the
/// values.
TEST_F(TextCaches, AreWholeWhenADeviceIsABatchAhead) {
  if (world().rank() != 0) return;
  TextCacheOptions options = text_options(dir_, "device");
  options.device = counted_device;
  const auto alone = local_communicator();
  EXPECT_TRUE(cache_text(options, *alone));
  EXPECT_TRUE(cache_text(text_options(dir_, "alone"), *alone));
  for (const char* strategy : {"/last", "/layer_2", "/norm_avg"}) {
    verify_cache(options.out + strategy);
    EXPECT_EQ(CacheReader(options.out + strategy).manifest().tokens,
              CacheReader(dir_ + "/alone" + strategy).manifest().tokens);
  }
}

TEST_F(TextCaches, GoOnAfterAStop) {
  for (const bool stream : {false, true}) {
    TextCacheOptions options = text_options(dir_, stream ? "streamed" : "stopped");
    options.stream = stream;
    {
      const StopSignals signals;
      if (world().rank() == world().size() - 1) std::raise(SIGTERM);
      try {
        cache_text(options, world());
        ADD_FAILURE() << "went on";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Exit::requeue);
      }
      world().barrier();
      EXPECT_FALSE(file_exists(options.out + "/last/manifest.json"));
      world().barrier();
    }
    const StopSignals signals;
    EXPECT_TRUE(cache_text(options, world()));
    if (world().rank() != 0) continue;
    TextCacheOptions whole = text_options(dir_, "whole");
    whole.overwrite = true;
    cache_text(whole, *local_communicator());
    EXPECT_EQ(contents_of(options.out), contents_of(whole.out));
  }
}

TEST_F(TextCaches, HoldWhatTheEncoderGives) {
  TextCacheOptions options = text_options(dir_, "values");
  options.dtype = CacheDType::float32;
  options.max_tokens = 40;
  cache_text(options, world());
  if (world().rank() != 0) return;
  Exec exec;
  const TextEncoder encoder = TextEncoder::load(exec, options.encoder);
  EncodeOptions wanted;
  wanted.strategies = options.strategies;
  wanted.pooled = true;
  wanted.max_tokens = options.max_tokens;
  const char* folders[] = {"last", "layer_2", "norm_avg"};
  for (std::size_t s = 0; s < 3; ++s) {
    const CacheReader cache(options.out + "/" + folders[s]);
    const CacheManifest& manifest = cache.manifest();
    EXPECT_EQ(manifest.strategy, options.strategies[s]);
    EXPECT_EQ(manifest.max_tokens, 40);
    EXPECT_EQ(manifest.attention, "causal");
    EXPECT_EQ(manifest.model, "llama");
    EXPECT_EQ(manifest.weights_sha256, encoder.model().weights_sha256());
    EXPECT_EQ(manifest.tokenizer_sha256, encoder.tokenizer().sha256());
    ASSERT_EQ(cache.rows(), fixture_captions);
    ASSERT_EQ(cache.pooled_dim(), encoder.width());
    for (int i = 0; i < fixture_captions; ++i) {
      const std::string caption = fixture_caption(i);
      const Encoded alone = encoder.encode(exec, std::span(&caption, 1), wanted);
      ASSERT_EQ(cache.tokens(i), alone.ids.tensor().numel());
      std::vector<float> values(static_cast<std::size_t>(alone.hidden[s].tensor().numel()));
      std::vector<float> pooled(static_cast<std::size_t>(encoder.width()));
      cache.read_row(i, values.data(), pooled.data());
      EXPECT_TRUE(std::equal(values.begin(), values.end(), alone.hidden[s].as<float>())) << i;
      EXPECT_TRUE(std::equal(pooled.begin(), pooled.end(), alone.pooled.as<float>())) << i;
    }
  }
}

TEST_F(TextCaches, RefuseBadOptions) {
  if (world().rank() != 0) return;
  const auto alone = local_communicator();
  const auto code = [&](auto change) {
    TextCacheOptions options = text_options(dir_, "bad");
    change(options);
    try {
      cache_text(options, *alone);
    } catch (const Error& e) {
      return static_cast<int>(e.code());
    }
    return 0;
  };
  EXPECT_EQ(code([](TextCacheOptions& o) { o.strategies = {"layer:5"}; }), 64);
  EXPECT_EQ(code([](TextCacheOptions& o) { o.strategies = {"first"}; }), 64);
  EXPECT_EQ(code([](TextCacheOptions& o) { o.preset = "gpt-5"; }), 64);
  EXPECT_EQ(code([](TextCacheOptions& o) { o.preset = "llama3-8b"; }), 65);
  EXPECT_EQ(code([](TextCacheOptions& o) { o.encoder = "/nowhere"; }), 65);
  EXPECT_EQ(code([](TextCacheOptions& o) { o.index = "/nowhere"; }), 65);
  EXPECT_FALSE(directory_exists(dir_ + "/bad"));
}

}  // namespace
}  // namespace strata
