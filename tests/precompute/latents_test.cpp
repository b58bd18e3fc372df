// The latent cache under mpirun: the same bytes on any number of ranks, and the values of the
// formula.

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.hpp"
#include "core/exec.hpp"
#include "data/cache_reader.hpp"
#include "kernels/ops.hpp"
#include "latents_fixture.hpp"
#include "model/vae.hpp"
#include "tests/data/temporary_folder.hpp"
#include "tests/dist/job.hpp"

namespace strata {
namespace {

/// One folder for all ranks, made and removed by rank 0.
class Latents : public testing::Test {
 protected:
  void SetUp() override {
    if (world().rank() == 0) {
      folder_ = std::make_unique<TemporaryFolder>();
      write_picture_index(folder_->path());
    }
    dir_ = world().all_gather_strings(folder_ ? folder_->path() : "").front();
  }
  void TearDown() override { world().barrier(); }

  std::unique_ptr<TemporaryFolder> folder_;
  std::string dir_;
};

TEST_F(Latents, AreTheSameBytesOnAnyRanks) {
  EXPECT_TRUE(cache_latents(latent_options(dir_, "shared"), world()));
  EXPECT_FALSE(cache_latents(latent_options(dir_, "shared"), world()));
  if (world().rank() != 0) return;
  const auto alone = local_communicator();
  EXPECT_TRUE(cache_latents(latent_options(dir_, "alone"), *alone));
  EXPECT_EQ(contents_of(dir_ + "/shared"), contents_of(dir_ + "/alone"));
  EXPECT_EQ(contents_of(dir_ + "/shared").size(), 5u);  // 4 shards and the manifest
  verify_cache(dir_ + "/shared");
}

TEST_F(Latents, FollowTheFormula) {
  LatentOptions options = latent_options(dir_, "sample");
  options.dtype = CacheDType::float32;
  cache_latents(options, world());
  options.out = dir_ + "/mean";
  options.kind = "mean";
  cache_latents(options, world());
  options.out = dir_ + "/moments";
  options.kind = "moments";
  cache_latents(options, world());
  if (world().rank() != 0) return;

  const CacheReader sample(dir_ + "/sample"), mean(dir_ + "/mean"), both(dir_ + "/moments");
  const Vae vae = Vae::load(options.vae);
  const int channels = vae.latent_channels(), side = 16 / vae.downsample_factor();
  EXPECT_EQ(sample.manifest().shape, (std::vector<std::int64_t>{channels, side, side}));
  EXPECT_EQ(sample.manifest().weights_sha256, vae.weights_sha256());
  EXPECT_EQ(sample.manifest().latent_kind, "sample");
  EXPECT_TRUE(sample.manifest().latent_scaled);
  EXPECT_EQ(sample.manifest().model, "sd2");
  EXPECT_EQ(both.manifest().shape, (std::vector<std::int64_t>{2 * channels, side, side}));
  EXPECT_EQ(both.manifest().latent_kind, "moments");
  EXPECT_EQ(both.manifest().latent_channels(), channels);
  EXPECT_TRUE(both.manifest().latent_scaled);

  constexpr std::int64_t row = 4;
  const Index index = Index::load(options.index);
  const Image image =
      resize_and_centre_crop(decode_image(index.read_image(row)).image, 16, Resample::bilinear);
  Exec exec;
  const Tensor pixels = exec.empty(DType::f32, {1, 16, 16, 3});
  to_unit_range(image, pixels.as<float>());
  const Moments moments = vae.encode(exec, pixels);
  const Tensor noise = exec.empty(DType::f32, {1, channels, side, side});
  const PhiloxCounter counter{row, 0, Purpose::posterior};
  ops::normals(exec, noise, {options.seed}, &counter);
  const int size = channels * side * side;
  std::vector<float> drawn(static_cast<std::size_t>(size)), expected(drawn.size()),
      halves(2 * drawn.size());
  both.read_row(row, halves.data(), nullptr);
  sample.read_row(row, drawn.data(), nullptr);
  mean.read_row(row, expected.data(), nullptr);
  for (int c = 0; c < channels; ++c)
    for (int p = 0; p < side * side; ++p) {
      const int at = c * side * side + p, from = p * channels + c;
      const float mu = moments.mean.as<float>()[from], logvar = moments.logvar.as<float>()[from];
      // A batch of 1 instead of 2 may round its sums in another order.
      const float error = 1e-4f * (1 + std::abs(mu));
      EXPECT_NEAR(expected[at], vae.scaling().scale * mu, error);
      const float draw =
          vae.scaling().scale * (mu + std::exp(0.5f * logvar) * noise.as<float>()[at]);
      EXPECT_NEAR(drawn[at], draw, error + 1e-5f * std::abs(draw));
      EXPECT_EQ(halves[at], expected[at]);
      EXPECT_NEAR(halves[size + at], vae.scaling().scale * std::exp(0.5f * logvar),
                  1e-4f * halves[size + at]);
      EXPECT_EQ(drawn[at], std::fma(halves[size + at], noise.as<float>()[at], halves[at]));
    }
}

TEST_F(Latents, OfAShiftedVaeAreShiftedBeforeTheyAreScaled) {
  if (world().rank() != 0) return;
  const auto alone = local_communicator();
  LatentOptions options = latent_options(dir_, "shifted");
  options.vae = std::string(STRATA_SOURCE_DIR) + "/tests/golden/vae/sd3";
  options.kind = "mean";
  options.dtype = CacheDType::float32;
  options.batch = 1;
  cache_latents(options, *alone);
  const Image image = resize_and_centre_crop(
      decode_image(Index::load(options.index).read_image(2)).image, 16, Resample::bilinear);
  Exec exec;
  const Tensor pixels = exec.empty(DType::f32, {1, 16, 16, 3});
  to_unit_range(image, pixels.as<float>());
  const Moments moments = Vae::load(options.vae).encode(exec, pixels);  // (1,2,2,16)
  std::vector<float> row(64);
  CacheReader(options.out).read_row(2, row.data(), nullptr);
  for (int c = 0; c < 16; ++c)
    for (int p = 0; p < 4; ++p)
      EXPECT_FLOAT_EQ(row[c * 4 + p], (moments.mean.as<float>()[p * 16 + c] - 0.0609f) * 1.5305f);
}

TEST_F(Latents, RefuseBadOptions) {
  if (world().rank() != 0) return;
  const auto alone = local_communicator();
  const auto code = [&](auto change) {
    LatentOptions options = latent_options(dir_, "bad");
    change(options);
    try {
      cache_latents(options, *alone);
    } catch (const Error& e) {
      return static_cast<int>(e.code());
    }
    return 0;
  };
  EXPECT_EQ(code([](LatentOptions& o) { o.resolution = 13; }), 64);
  EXPECT_EQ(code([](LatentOptions& o) { o.kind = "median"; }), 64);
  EXPECT_EQ(code([](LatentOptions& o) { o.dtype = CacheDType::int8; }), 64);
  EXPECT_EQ(code([](LatentOptions& o) { o.vae = "/nowhere"; }), 65);
  EXPECT_EQ(code([](LatentOptions& o) { o.index = "/nowhere"; }), 65);
}

}  // namespace
}  // namespace strata
