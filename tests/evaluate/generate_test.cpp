#include "evaluate/generate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "diffusion/sample_loop.hpp"
#include "kernels/ops.hpp"
#include "model/weights.hpp"

namespace strata {
namespace {

// The miniature U-Net and VAE; captions of different lengths, one of them without a token.
class Generate : public ::testing::Test {
 protected:
  Generate()
      : unet_(UNetConfig::from_json_file(STRATA_SOURCE_DIR "/configs/miniature/unet/config.json")),
        vae_(Vae::load(STRATA_SOURCE_DIR "/data/miniature/vae")),
        flat_(DType::f32, {unet_.parameters().numel()}) {
    initialize(unet_.parameters(), flat_, 5);
    const std::int64_t lengths[] = {3, 9, 0, 17, 1, 6};
    prompts_.offsets = Buffer(DType::i64, {std::size(lengths) + 1});
    auto* offsets = prompts_.offsets.as<std::int64_t>();
    offsets[0] = 0;
    for (std::size_t i = 0; i < std::size(lengths); ++i) offsets[i + 1] = offsets[i] + lengths[i];
    prompts_.tokens = Buffer(DType::f32, {offsets[std::size(lengths)], unet_.config().text_dim()});
    prompts_.pooled = Buffer(DType::f32, {prompts_.count(), unet_.config().pooled_dim});
    draw(prompts_.tokens, 1);
    draw(prompts_.pooled, 2);
  }

  void draw(const Tensor& values, std::uint64_t seed) {
    const PhiloxCounter at{0, 0, Purpose::noise};
    ops::normals(exec_, values.reshape({1, values.numel()}), {seed}, &at);
  }

  std::vector<Image> make(std::vector<ImageRequest> requests, DType dtype = DType::f32,
                          int tile = 0, int batch = 4, SamplerKind kind = SamplerKind::ddim) {
    Buffer weights(dtype, {unet_.parameters().numel()});
    ops::cast(exec_, weights, flat_);
    exec_.weights_changed();
    return generate_images(exec_, unet_, {unet_.parameters(), weights}, SamplerConfig(), vae_,
                           prompts_, requests,
                           {.steps = 2, .sampler = kind, .batch = batch, .tile = tile});
  }

  Exec exec_;
  UNet unet_;
  Vae vae_;
  Buffer flat_;
  EncodedPrompts prompts_;
};

TEST_F(Generate, APictureDoesNotDependOnItsNeighbours) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<ImageRequest> all;
    for (std::int64_t i = 0; i < prompts_.count(); ++i)
      all.push_back({i, 40 + static_cast<std::uint64_t>(i), 0});
    const auto together = make(all, dtype);
    ASSERT_EQ(together.size(), all.size());
    EXPECT_EQ(together[0].width, 32);
    for (const std::size_t i : {0, 2, 3})
      EXPECT_EQ(make({all[i]}, dtype)[0].rgb, together[i].rgb) << name_of(dtype) << " " << i;
    std::reverse(all.begin(), all.end());
    const auto backwards = make(all, dtype);
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(backwards[i].rgb, together[all.size() - 1 - i].rgb) << name_of(dtype) << " " << i;
  }
}

TEST_F(Generate, APictureDoesNotDependOnTheBatchSize) {
  std::vector<ImageRequest> all;
  for (std::int64_t i = 0; i < prompts_.count(); ++i)
    all.push_back({i, 40 + static_cast<std::uint64_t>(i), 0});
  for (const SamplerKind kind : {SamplerKind::ddim, SamplerKind::euler, SamplerKind::dpmpp_2m})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto wanted = make(all, dtype, 0, 4, kind);
      for (const int batch : {1, 5}) {
        const auto images = make(all, dtype, 0, batch, kind);
        for (std::size_t i = 0; i < all.size(); ++i)
          EXPECT_EQ(images[i].rgb, wanted[i].rgb) << name_of(kind) << " " << batch << " " << i;
      }
    }
}

TEST_F(Generate, SeedVariationAndTextMatter) {
  const auto images = make({{0, 7, 0}, {0, 8, 0}, {0, 7, 1}, {1, 7, 0}, {0, 7, 0}});
  EXPECT_NE(images[0].rgb, images[1].rgb);
  EXPECT_NE(images[0].rgb, images[2].rgb);
  EXPECT_NE(images[0].rgb, images[3].rgb);
  EXPECT_EQ(images[0].rgb, images[4].rgb);
}

TEST_F(Generate, TilesSmallerThanThePictureMatter) {
  const std::vector<ImageRequest> one{{0, 7, 0}};
  EXPECT_EQ(make(one, DType::f32, 32)[0].rgb, make(one)[0].rgb);
  EXPECT_NE(make(one, DType::f32, 16)[0].rgb, make(one)[0].rgb);
}

// A prompt without tokens and with a pooled vector of zeros is the unconditional one: guidance,
// whatever its scale, changes nothing but the rounding of u + g (c - u), with c = u exactly.
TEST_F(Generate, AnEmptyPromptIsTheUnconditionalOne) {
  const Weights weights(unet_.parameters(), flat_);
  std::int64_t none[] = {0, 0};
  const Buffer no_tokens(DType::f32, {0, unet_.config().text_dim()});
  const TextBatch text{no_tokens, view_of(none, {2})};
  const auto sample = [&](float cfg) {
    Buffer latents(DType::f32, {1, 8, 8, 4});
    const PhiloxCounter at{0, 0, Purpose::image_noise};
    ops::normals(exec_, latents, {3}, &at);
    const auto sampler = make_sampler(SamplerKind::ddim, SamplerConfig(), 3);
    const Buffer pooled = Buffer::zeros(DType::f32, {1, unet_.config().pooled_dim});
    sample_latents(exec_, unet_, weights, text, pooled, latents, *sampler, {cfg});
    return latents;
  };
  const Buffer plain = sample(1.0f), guided = sample(9.0f);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(plain.as<float>()[i], guided.as<float>()[i]) << i;
}

}  // namespace
}  // namespace strata
