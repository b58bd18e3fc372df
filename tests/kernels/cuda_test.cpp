// What of the CUDA backend needs no GPU: which call a shape becomes, and what is said where there
// is no device.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/collectives.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/attention_route.hpp"
#include "kernels/cuda/geometry.hpp"
#include "kernels/cuda/matmul.hpp"
#include "kernels/cuda/plan_cache.hpp"
#include "kernels/cuda/sequences.hpp"

namespace strata::cuda {
namespace {

const void* at(std::uintptr_t address) {
  return reinterpret_cast<const void*>(address);
}

TEST(Matmul, AlignmentIsThePowerOfTwoThatDividesTheAddress) {
  EXPECT_EQ(alignment_of(at(0x1000)), 256);
  EXPECT_EQ(alignment_of(at(0x1080)), 128);
  EXPECT_EQ(alignment_of(at(0x1008)), 8);
  EXPECT_EQ(alignment_of(at(0x1001)), 1);
}

MatmulKey key(Product product, std::uintptr_t d = 0x100, std::uintptr_t a = 0x100,
              std::uintptr_t b = 0x100, std::uintptr_t bias = 0) {
  return key_of(product, at(d), at(a), at(b), at(bias));
}

TEST(Matmul, RowsShareAlgorithmsByBuckets) {
  const auto rows = [](std::int64_t m) {
    return key({.m = m, .n = 320, .k = 1024, .b_transposed = true});
  };
  EXPECT_EQ(rows(4097), rows(4160));
  EXPECT_NE(rows(4096), rows(4097));
  EXPECT_NE(rows(63), rows(64));  // few rows are worth a choice each
  // The weight gradient sums over the rows: those are its K.
  const auto summed = [](std::int64_t k) {
    return key({.m = 320, .n = 1024, .k = k, .a_transposed = true, .accumulate = true});
  };
  EXPECT_EQ(summed(4097), summed(4160));
  EXPECT_NE(summed(4096), summed(4097));
}

TEST(Matmul, EverythingElseTellsAlgorithmsApart) {
  const Product plain{.m = 256, .n = 320, .k = 640};
  Product other = plain;
  other.type = DType::bf16;
  EXPECT_NE(key(plain), key(other));
  other = plain;
  other.accumulate = true;
  EXPECT_NE(key(plain), key(other));
  other = plain;
  other.batch = 3;
  EXPECT_NE(key(plain), key(other));
  EXPECT_NE(key(plain), key(plain, 0x108));
  EXPECT_NE(key(plain), key(plain, 0x100, 0x102));
  EXPECT_NE(key(plain), key(plain, 0x100, 0x100, 0x100, 0x200));
  EXPECT_NE(key(plain, 0x100, 0x100, 0x100, 0x200), key(plain, 0x100, 0x100, 0x100, 0x204));
}

TEST(Matmul, SumsOnTheWayAreAnotherKernel) {
  Product gradient{.m = 320, .n = 1024, .k = 4096, .a_transposed = true, .accumulate = true};
  const MatmulKey plain = key(gradient, 0x100, 0x100, 0x100, 0x200);
  gradient.sums_a = true;
  EXPECT_NE(plain, key(gradient, 0x100, 0x100, 0x100, 0x200));
}

TEST(Matmul, FixedRowsIgnoreTheirNumber) {
  const auto rows = [](std::int64_t m) {
    return key({.m = m, .n = 4096, .k = 4096, .b_transposed = true, .fixed_rows = 4096});
  };
  EXPECT_EQ(rows(128), rows(128 * 77));
}

TEST(Matmul, ASteppedTensorIsOnlyAsAlignedAsItsSteps) {
  Product taps{.m = 8, .n = 4, .k = 64, .type = DType::bf16, .batch = 3, .b_step = 4, .d_step = 4};
  const MatmulKey narrow = key(taps);
  taps.b_step = 128;
  EXPECT_NE(narrow.extents[7], key(taps).extents[7]);
  EXPECT_EQ(narrow.extents[7], 8);   // 4 bf16
  EXPECT_EQ(narrow.extents[5], 16);  // 4 f32
}

TEST(WeightGradients, OnlyEvenChannelsInBf16GoThroughCudnn) {
  EXPECT_TRUE(adds_weight_gradients(DType::bf16, 320, 1280));
  EXPECT_TRUE(adds_weight_gradients(DType::bf16, 4, 320));
  EXPECT_FALSE(adds_weight_gradients(DType::bf16, 33, 320));
  EXPECT_FALSE(adds_weight_gradients(DType::bf16, 320, 3));
  EXPECT_FALSE(adds_weight_gradients(DType::f32, 320, 320));
}

using Offsets = std::vector<std::int64_t>;

class Route : public testing::Test {
 protected:
  std::optional<AttentionShape> route(const Offsets& q_at, const Offsets& k_at,
                                      bool backward = false, int capability = 90) const {
    std::byte* somewhere = reinterpret_cast<std::byte*>(0x1000);
    const Tensor q{somewhere, dtype, {DeviceKind::cuda, 0}, {q_at.back(), heads, width}};
    const Tensor k{somewhere, dtype, {DeviceKind::cuda, 0}, {k_at.back(), key_heads, width}};
    const auto count = [](const Offsets& o) { return Shape{static_cast<std::int64_t>(o.size())}; };
    return route_attention(q, k, view_of(q_at.data(), count(q_at)),
                           view_of(k_at.data(), count(k_at)), p, backward, true, capability);
  }
  DType dtype = DType::bf16;
  std::int64_t heads = 5, key_heads = 5, width = 64;
  ops::AttentionParams p{.scale = 0.125f};
};

TEST_F(Route, EqualSequencesNeedNoCounts) {
  const auto r = route({0, 1024, 2048}, {0, 1024, 2048});
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->ragged);
  EXPECT_EQ(r->queries, 1024);
  EXPECT_TRUE(route({0, 1024, 2048}, {0, 1024, 2048}, true, 80));
}

TEST_F(Route, RaggedTextHasBucketsOfLengths) {
  const auto r = route({0, 256, 512, 768}, {0, 77, 77, 80});
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->ragged);
  EXPECT_EQ(r->queries, 256);
  EXPECT_EQ(r->keys, 128);  // 77 in buckets of 64
  EXPECT_TRUE(route({0, 256, 512, 768}, {0, 77, 77, 80}, true, 90));
  EXPECT_FALSE(route({0, 256, 512, 768}, {0, 77, 77, 80}, true, 80));
}

TEST_F(Route, LengthsOnTheDeviceAreBoundedByTheLongest) {
  p.longest_keys = 77;
  const Offsets queries{0, 256, 512};
  std::byte* somewhere = reinterpret_cast<std::byte*>(0x1000);
  const Device device{DeviceKind::cuda, 0};
  const Tensor q{somewhere, dtype, device, {512, heads, width}};
  const Tensor k{somewhere, dtype, device, {160, heads, width}};
  const Tensor counts{somewhere, DType::i64, device, {3}};
  const auto r = route_attention(q, k, view_of(queries.data(), {3}), counts, p, false, true, 90);
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->ragged);
  EXPECT_EQ(r->batch, 2);
  EXPECT_EQ(r->queries, 256);
  EXPECT_EQ(r->keys, 128);
}

TEST_F(Route, OneTensorOfOffsetsOnTheDeviceMayBeCausal) {
  p.longest_keys = 77;
  p.causal = true;
  const Device device{DeviceKind::cuda, 0};
  std::byte* somewhere = reinterpret_cast<std::byte*>(0x1000);  // the host cannot read there
  const Tensor q{somewhere, dtype, device, {512, heads, width}};
  const Tensor counts{somewhere, DType::i64, device, {65}};
  const auto r = route_attention(q, q, counts, counts, p, false, false, 80);
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->ragged && r->causal);
  EXPECT_EQ(r->batch, 64);
  EXPECT_EQ(r->queries, 128);
  EXPECT_EQ(r->keys, 128);
}

TEST_F(Route, OtherOffsetsOnTheDeviceAreNotReadByTheHost) {
  p.longest_keys = 77;
  p.causal = true;
  const Device device{DeviceKind::cuda, 0};
  std::byte* somewhere = reinterpret_cast<std::byte*>(0x1000);  // the host cannot read there
  const Tensor q{somewhere, dtype, device, {512, heads, width}};
  const Tensor q_at{somewhere, DType::i64, device, {65}},
      k_at{somewhere + 520, DType::i64, device, {65}};
  EXPECT_FALSE(route_attention(q, q, q_at, k_at, p, false, false, 90));
}

TEST_F(Route, OnlyAWindowThatHidesSomethingIsOurs) {
  p.causal = true;
  p.window = 99;
  EXPECT_TRUE(route({0, 100, 150}, {0, 100, 150}));
  p.window = 98;
  EXPECT_FALSE(route({0, 100, 150}, {0, 100, 150}));
}

TEST(Sequences, AreCountedInElements) {
  const AttentionShape shape{.batch = 3, .heads = 5, .key_heads = 1, .width = 64};
  const Offsets k_at{0, 77, 77, 80}, q_at{0, 256, 512, 768};
  for (const Sequences& queries : {Sequences{nullptr, 256}, Sequences{q_at.data()}}) {
    std::vector<std::int32_t> q_lengths(3), k_lengths(3);
    Offsets q_offsets(4), k_offsets(4), lse_offsets(4);
    const RaggedCounts to{q_lengths.data(), k_lengths.data(), q_offsets.data(), k_offsets.data(),
                          lse_offsets.data()};
    for (std::int64_t b = 0; b <= 3; ++b) count_sequence(to, shape, queries, {k_at.data()}, b);
    EXPECT_EQ(q_lengths, (std::vector<std::int32_t>{256, 256, 256}));
    EXPECT_EQ(k_lengths, (std::vector<std::int32_t>{77, 0, 3}));
    EXPECT_EQ(q_offsets, (Offsets{0, 256 * 320, 512 * 320, 768 * 320}));
    EXPECT_EQ(k_offsets, (Offsets{0, 77 * 64, 77 * 64, 80 * 64}));
    EXPECT_EQ(lse_offsets, (Offsets{0, 256 * 5, 512 * 5, 768 * 5}));
  }
}

/// Feature maps (samples, side, channels): of SD2's U-Net at 64 samples of 64 x 64 latents, skips
/// put together among them, of its VAE at 8 images of 512 x 512, and some of no model.
struct FeatureMap {
  std::int64_t samples, side, channels;
};
std::vector<FeatureMap> feature_maps() {
  std::vector<FeatureMap> maps{{1, 1, 1},    {3, 5, 33},   {2, 7, 320},  {65535, 1, 4},
                               {1, 512, 17}, {2, 3, 5000}, {1, 64, 8192}};
  for (const std::int64_t channels : {320, 640, 960}) maps.push_back({64, 64, channels});
  for (const std::int64_t channels : {320, 640, 960, 1280, 1920})
    maps.push_back({64, 32, channels});
  for (const std::int64_t channels : {640, 1280, 1920, 2560}) maps.push_back({64, 16, channels});
  for (const std::int64_t channels : {1280, 2560}) maps.push_back({64, 8, channels});
  for (const std::int64_t side : {64, 128, 256, 512})
    for (const std::int64_t channels : {128, 256, 512}) maps.push_back({8, side, channels});
  return maps;
}

TEST(Geometry, GroupNormWorksOnEveryPixelAndChannelWithinTheLimits) {
  for (const FeatureMap& map : feature_maps())
    for (const int n : {1, 4, 8}) {
      if (map.channels % n != 0) continue;
      SCOPED_TRACE(
          fmt::format("{} x {}^2 x {}, {} at once", map.samples, map.side, map.channels, n));
      const std::int64_t pixels = map.side * map.side;
      const GroupNormCut cut(map.samples, pixels, map.channels, n);
      EXPECT_GE(cut.across, 1);
      EXPECT_GE(cut.layers, 1);
      EXPECT_LE(cut.across * cut.layers, GroupNormCut::most_threads);
      EXPECT_LE(cut.shared_bytes(n), std::size_t{48} << 10) << "what a kernel has unasked";
      EXPECT_EQ(cut.columns * n, map.channels);
      EXPECT_GE(cut.chunks * cut.chunk_pixels, pixels);
      EXPECT_LT((cut.chunks - 1) * cut.chunk_pixels, pixels) << "a block without work";
      EXPECT_GE(cut.chunk_pixels, cut.layers) << "a layer without work";
      EXPECT_NO_THROW(blocks(cut.chunks));
      EXPECT_NO_THROW(grid_side(cut.batch));
    }
}

TEST(Geometry, TheLargestTensorsFitIntoGridsAndVendorsIndices) {
  for (const FeatureMap& map : feature_maps()) {
    const std::int64_t rows = map.samples * map.side * map.side;
    SCOPED_TRACE(fmt::format("{} x {}^2 x {}", map.samples, map.side, map.channels));
    EXPECT_NO_THROW(blocks(ceil_div(rows * map.channels, 256))) << "one element a thread";
    EXPECT_NO_THROW(grid_side(ceil_div(rows, sum_rows_chunk))) << "sums over all rows";
    EXPECT_NO_THROW(grid_side(ceil_div(map.side * map.side, 32))) << "a transpose's tiles";
    const int chunk = layer_norm_chunk(rows);
    EXPECT_NO_THROW(blocks(ceil_div(rows, chunk)));
    if (rows >= chunk) {  // fewer are one chunk, whatever it costs
      EXPECT_LE(ceil_div(rows, chunk) * 2 * map.channels * 4, rows * map.channels * 2)
          << "parts of dw and db take more than a bf16 tensor";
    }
    EXPECT_LT(rows * map.channels, std::int64_t{1} << 31) << "cuDNN counts in 32 bits";
  }
  // GEGLU's hidden layer, the widest of all.
  EXPECT_LT(std::int64_t{64} * 64 * 64 * 2 * 1280, std::int64_t{1} << 31);
}

TEST(Geometry, BeyondTheLimitsIsAnError) {
  EXPECT_EQ(blocks((std::int64_t{1} << 31) - 1), 0x7fffffffu);
  EXPECT_THROW(blocks(std::int64_t{1} << 31), Error);
  EXPECT_EQ(grid_side(65535), 65535u);
  EXPECT_THROW(grid_side(65536), Error);
  EXPECT_THROW(blocks(-1), Error);
}

class Plans : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "plans-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  PlanCache cache(const std::string& device = "NVIDIA H100 80GB/HBM3") const {
    return {dir_, device, 91900};
  }
  std::string dir_;
  const std::vector<std::int64_t> words_{0, 1, 64, 32, 32, 320, 320, 3, 3, 1, 1, 1, 1};
  const EngineChoice choice_{17, {{4, 1}, {28, -3}}};
};

TEST_F(Plans, AreFoundByAnotherProcessOfTheSameDeviceOnly) {
  EXPECT_FALSE(cache().find(words_));
  EXPECT_EQ(cache().add(words_, choice_), choice_);
  EXPECT_EQ(cache().find(words_), choice_);
  EXPECT_FALSE(cache("A100").find(words_));
  auto other = words_;
  other[2] = 63;
  EXPECT_FALSE(cache().find(other));
  EXPECT_FALSE(PlanCache(dir_, "NVIDIA H100 80GB/HBM3", 91901).find(words_));
}

TEST_F(Plans, TheFirstThatIsPublishedHolds) {
  auto first = cache(), second = cache();
  const EngineChoice slower{3, {}};
  EXPECT_EQ(first.add(words_, choice_), choice_);
  EXPECT_EQ(second.add(words_, slower), choice_);
  EXPECT_EQ(second.find(words_), choice_);
}

TEST_F(Plans, EveryDamagedByteIsSeenAndTheChoiceIsMadeAnew) {
  cache().add(words_, choice_);
  const std::string path = cache().path_of(words_);
  std::ifstream file(path);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  for (std::size_t i = 0; i <= whole.size(); ++i) {
    std::string damaged = whole.substr(0, i);  // cut off, then with one byte that differs
    for (const bool cut : {true, false}) {
      if (!cut && i == whole.size()) continue;
      if (!cut) (damaged = whole)[i] ^= 4;
      if (damaged == whole) continue;
      std::ofstream(path, std::ios::binary) << damaged;
      ASSERT_FALSE(cache().find(words_)) << (cut ? "cut at " : "flipped at ") << i;
    }
  }
  EXPECT_EQ(cache().add(words_, choice_), choice_);
  EXPECT_EQ(cache().find(words_), choice_);
}

TEST_F(Plans, WhereNothingCanBeWrittenTheyHoldInMemory) {
  std::ofstream(dir_ + "/file") << "in the way";
  PlanCache nowhere(dir_ + "/file", "H100", 91900);
  EXPECT_EQ(nowhere.add(words_, choice_), choice_);
  EXPECT_EQ(nowhere.find(words_), choice_);
}

TEST(PlanFolder, IsTheUsersCache) {
  ::setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(default_plan_folder(), "/somewhere/strata/cudnn");
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(default_plan_folder(), "/home/somebody/.cache/strata/cudnn");
}

TEST_F(Route, OurOwnKernelsDoTheRest) {
  const Offsets two{0, 64, 128};
  EXPECT_TRUE(route(two, two));
  dtype = DType::f32;
  EXPECT_FALSE(route(two, two));
  dtype = DType::bf16;
  width = 36;
  EXPECT_FALSE(route(two, two));
  width = 256;
  EXPECT_FALSE(route(two, two));
  width = 64;
  EXPECT_FALSE(route(two, {0, 0, 0}));
  p.softcap = 50;
  EXPECT_FALSE(route(two, two));
  p.softcap = 0;
  p.window = 7;
  EXPECT_FALSE(route(two, two));
  p.window = -1;
  p.causal = true;
  EXPECT_TRUE(route(two, two));
  EXPECT_FALSE(route({0, 1, 2}, two));  // queries that are the last of many positions
}

TEST(Device, AbsenceIsOneClearLine) {
  try {
    cuda_device();
    GTEST_SKIP() << "there is a GPU";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::unavailable);
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("device cuda: ", 0), 0u) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
  EXPECT_THROW(Exec({DeviceKind::cuda, 0}), Error);
  EXPECT_THROW(Buffer(DType::f32, {4}, {DeviceKind::cuda, 0}), Error);
}

}  // namespace
}  // namespace strata::cuda
