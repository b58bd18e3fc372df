// The training loop's view: the same samples in the same order whatever the ranks.

#include "data/loader.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "cache_fixture.hpp"
#include "core/error.hpp"
#include "temporary_folder.hpp"

namespace strata {
namespace {

class LoaderTest : public testing::Test {
 protected:
  LoaderTest() {
    write_cache(folder_ / "latents", latent_plan(50, CacheDType::float32));
    write_cache(folder_ / "text", text_plan(50, CacheDType::float32));
  }
  CacheSet open(const CacheSet::Options& options = {}) const {
    return CacheSet::open(folder_ / "latents", folder_ / "text", options);
  }
  TemporaryFolder folder_;
};

TEST_F(LoaderTest, BatchesHoldWhatTheCachesHold) {
  const CacheSet set = open();
  EXPECT_EQ(set.size(), 50);
  EXPECT_EQ(set.latent_shape(), (Shape{4, 2, 3}));
  const std::vector<SampleOrder::Position> positions{{7, 0}, {4, 1}, {49, 2}};
  const Batch batch = set.read(positions);
  EXPECT_EQ(batch.samples, (std::vector<std::int64_t>{7, 4, 49}));
  EXPECT_EQ(batch.epochs, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(batch.latents.tensor().shape, (Shape{3, 4, 2, 3}));
  EXPECT_EQ(batch.tokens.tensor().shape, (Shape{4, 5}));  // 3 + 0 + 1 tokens
  EXPECT_EQ(batch.pooled.tensor().shape, (Shape{3, 3}));
  const auto* offsets = batch.offsets.as<std::int64_t>();
  EXPECT_EQ(std::vector<std::int64_t>(offsets, offsets + 4),
            (std::vector<std::int64_t>{0, 3, 3, 4}));
  for (int e = 0; e < 24; ++e) EXPECT_EQ(batch.latents.as<float>()[48 + e], fixture_value(49, e));
  for (int e = 0; e < 15; ++e) EXPECT_EQ(batch.tokens.as<float>()[e], fixture_value(7, e));
  for (int e = 0; e < 5; ++e) EXPECT_EQ(batch.tokens.as<float>()[15 + e], fixture_value(49, e));
  for (int e = 0; e < 3; ++e) EXPECT_EQ(batch.pooled.as<float>()[3 + e], fixture_value(1004, e));
}

TEST_F(LoaderTest, TextIsHandedOverAsItLiesInABf16Cache) {
  write_cache(folder_ / "narrow", text_plan(50, CacheDType::bfloat16));
  const CacheSet set = CacheSet::open(folder_ / "latents", folder_ / "narrow");
  const std::vector<SampleOrder::Position> positions{{7, 0}, {4, 1}, {49, 2}};
  const Batch narrow = set.read(positions), wide = open().read(positions);
  ASSERT_EQ(narrow.tokens.tensor().dtype, DType::bf16);
  ASSERT_EQ(narrow.pooled.tensor().dtype, DType::bf16);
  EXPECT_EQ(narrow.tokens.tensor().shape, wide.tokens.tensor().shape);
  EXPECT_EQ(narrow.latents.tensor().dtype, DType::f32);
  for (std::int64_t i = 0; i < wide.tokens.tensor().numel(); ++i)
    EXPECT_EQ(narrow.tokens.as<bf16>()[i].bits, to_bf16(wide.tokens.as<float>()[i]).bits) << i;
  for (std::int64_t i = 0; i < wide.pooled.tensor().numel(); ++i)
    EXPECT_EQ(narrow.pooled.as<bf16>()[i].bits, to_bf16(wide.pooled.as<float>()[i]).bits) << i;
  // Widened on request, the values are the same.
  const CacheReader text(folder_ / "narrow");
  std::vector<float> values(15);
  text.read_row(7, values.data(), nullptr);
  for (int e = 0; e < 15; ++e) EXPECT_EQ(values[e], to_float(narrow.tokens.as<bf16>()[e]));
}

TEST_F(LoaderTest, MomentsAreHandedOverWhole) {
  write_cache(folder_ / "moments", moments_plan(50));
  const CacheSet set = CacheSet::open(folder_ / "moments", folder_ / "text");
  EXPECT_EQ(set.latent_shape(), (Shape{4, 2, 3}));
  const std::vector<SampleOrder::Position> positions{{7, 0}, {49, 2}};
  const Batch batch = set.read(positions);
  EXPECT_TRUE(batch.moments);
  EXPECT_EQ(batch.latents.tensor().shape, (Shape{2, 8, 2, 3}));
  for (int e = 0; e < 48; ++e) EXPECT_EQ(batch.latents.as<float>()[48 + e], fixture_value(49, e));
  EXPECT_FALSE(open().read(positions).moments);
}

TEST_F(LoaderTest, OrderIsIndependentOfRanks) {
  const CacheSet set = open();
  const SampleOrder order(set.size(), 17);
  std::vector<std::set<std::pair<std::int64_t, std::uint32_t>>> reference;
  for (int ranks : {1, 2, 3, 4, 6}) {
    std::vector<std::set<std::pair<std::int64_t, std::uint32_t>>> steps(9);
    for (int rank = 0; rank < ranks; ++rank) {
      Loader loader(set, order,
                    {.first_counter = 24,
                     .global_batch = 12,
                     .microbatch = 12 / ranks / (ranks == 4 ? 1 : 2),
                     .rank = rank,
                     .ranks = ranks,
                     .steps = 9});
      const int microbatches = ranks == 4 ? 1 : 2;
      for (int i = 0; i < 9 * microbatches; ++i) {
        const Batch batch = loader.next();
        EXPECT_EQ(batch.step, i / microbatches);
        EXPECT_EQ(batch.microbatch, i % microbatches);
        for (std::size_t b = 0; b < batch.samples.size(); ++b)
          steps[batch.step].insert({batch.samples[b], batch.epochs[b]});
      }
      EXPECT_THROW(loader.next(), Error);
      EXPECT_GE(loader.wait_seconds(), 0);
    }
    if (ranks == 1) reference = steps;
    EXPECT_EQ(steps, reference) << ranks;
  }
  EXPECT_EQ(reference[0].size(), 12u);
}

TEST_F(LoaderTest, StopsWhileTheQueueIsFull) {
  const CacheSet set = open();
  for (int i = 0; i < 20; ++i) {
    Loader loader(set, SampleOrder(set.size(), 1), {.global_batch = 4, .microbatch = 2}, 2);
    if (i % 2) loader.next();
  }
}

TEST_F(LoaderTest, DamageReachesTheTrainingLoop) {
  const std::string path = folder_ / "latents/shard-00002.h5";
  const CacheSet set = open();
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-5, std::ios::end)
      .put('\x55');
  Loader loader(set, SampleOrder(set.size(), 1), {.global_batch = 5, .microbatch = 5, .steps = 10});
  try {
    for (int i = 0; i < 10; ++i) loader.next();
    FAIL() << "the damage was not seen";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::data);
    EXPECT_NE(std::string(e.what()).find("shard-00002.h5: sample 23"), std::string::npos)
        << e.what();
  }
}

TEST_F(LoaderTest, RefusesABatchThatDoesNotDivide) {
  const CacheSet set = open();
  EXPECT_THROW(Loader(set, SampleOrder(set.size(), 1), {.global_batch = 10, .microbatch = 4}),
               Error);
}

TEST_F(LoaderTest, ValidationIdsAreHeldOutByHash) {
  CacheSet::Options options;
  options.holdout = {.fraction = 0.3, .max_samples = 0, .seed = 5};
  const CacheSet set = open(options);
  const auto validation = set.ids(CacheSet::Part::validation);
  EXPECT_GT(validation.size(), 5u);
  EXPECT_EQ(std::ssize(validation) + set.size(), 50);
  EXPECT_NE(set.hash(), open().hash());
  EXPECT_EQ(set.hash(), open(options).hash());
  // A sample's fate does not depend on which others are there.
  write_cache(folder_ / "fewer", text_plan(30, CacheDType::float32));
  const CacheSet fewer = CacheSet::open(folder_ / "latents", folder_ / "fewer", options);
  for (std::int64_t id : fewer.ids(CacheSet::Part::validation))
    EXPECT_TRUE(std::binary_search(validation.begin(), validation.end(), id));
  for (std::int64_t id : fewer.ids())
    EXPECT_FALSE(std::binary_search(validation.begin(), validation.end(), id));
  options.also_in = {folder_ / "fewer"};
  EXPECT_EQ(open(options).hash(), fewer.hash());
  options.holdout.max_samples = 4;
  EXPECT_EQ(open(options).size(CacheSet::Part::validation), 4);
}

TEST_F(LoaderTest, RefusesWhatDoesNotFitTheConfig) {
  const auto code = [&](const CacheExpectation& wanted, const std::string& latents = "latents",
                        const std::string& text = "text") {
    try {
      CacheSet::Options options;
      options.expect = wanted;
      CacheSet::open(folder_ / latents, folder_ / text, options);
    } catch (const Error& e) {
      return static_cast<int>(e.code());
    }
    return 0;
  };
  EXPECT_EQ(code({}), 0);
  EXPECT_EQ(code({.latent_channels = 4,
                  .latent_height = 2,
                  .latent_width = 3,
                  .text_dim = 5,
                  .pooled_dim = 3,
                  .strategy = "last"}),
            0);
  EXPECT_EQ(code({.latent_channels = 8}), 78);
  EXPECT_EQ(code({.latent_height = 3}), 78);
  EXPECT_EQ(code({.text_dim = 4}), 78);
  EXPECT_EQ(code({.pooled_dim = 5}), 78);
  EXPECT_EQ(code({.strategy = "avg"}), 78);
  EXPECT_EQ(code({}, "text", "text"), 78);
  EXPECT_EQ(code({}, "latents", "latents"), 78);
  CachePlan other = text_plan(50, CacheDType::float32);
  other.manifest.index_sha256 = std::string(64, 'b');
  write_cache(folder_ / "other-index", other);
  EXPECT_EQ(code({}, "latents", "other-index"), 78);
  CachePlan unscaled = latent_plan(50, CacheDType::float32);
  unscaled.manifest.latent_scaled = false;
  write_cache(folder_ / "unscaled", unscaled);
  EXPECT_EQ(code({}, "unscaled"), 78);
  CachePlan median = latent_plan(50, CacheDType::float32);
  median.manifest.latent_kind = "median";
  write_cache(folder_ / "median", median);
  EXPECT_EQ(code({}, "median"), 78);
  write_cache(folder_ / "moments", moments_plan(50));
  EXPECT_EQ(code({.latent_channels = 4}, "moments"), 0);
  EXPECT_EQ(code({.latent_channels = 8}, "moments"), 78);
  CachePlan odd = latent_plan(50, CacheDType::float32);
  odd.manifest.latent_kind = "moments";
  odd.manifest.dim = 3;
  odd.manifest.shape = {3, 2, 3};
  write_cache(folder_ / "odd", odd);
  EXPECT_EQ(code({}, "odd"), 65);
  EXPECT_EQ(code({}, "nowhere"), 65);
}

}  // namespace
}  // namespace strata
