// AutoencoderKL against diffusers: tests/golden/vae, made by tools/makers/goldens_vae.py.

#include "model/vae.hpp"

#include <algorithm>
#include <fstream>
#include <vector>

#include "core/error.hpp"
#include "golden.hpp"
#include "kernels/ops.hpp"
#include "model/vae_parts.hpp"
#include "model/vae_tiles.hpp"
#include "tests/data/temporary_folder.hpp"

namespace strata::test {
namespace {

constexpr double tolerance = 2e-5;

Buffer permuted(Tensor x, bool to_nhwc) {
  Exec exec;
  const Shape& s = x.shape;
  Buffer y(DType::f32, to_nhwc ? Shape{s[0], s[2], s[3], s[1]} : Shape{s[0], s[3], s[1], s[2]});
  to_nhwc ? ops::nchw_to_nhwc(exec, y, x) : ops::nhwc_to_nchw(exec, y, x);
  return y;
}

/// The values at which `reference` is off the ends of the clamp, which would drown the others.
Buffer unclamped(Tensor values, Tensor reference) {
  std::vector<float> kept;
  for (std::int64_t i = 0; i < values.numel(); ++i)
    if (std::abs(reference.as<float>()[i]) < 20) kept.push_back(values.as<float>()[i]);
  Buffer result(DType::f32, {static_cast<std::int64_t>(kept.size())});
  std::copy(kept.begin(), kept.end(), result.as<float>());
  return result;
}

class VaeGolden : public testing::TestWithParam<const char*> {
 protected:
  VaeGolden()
      : folder_(golden(std::string("vae/") + GetParam())),
        input_(folder_ + "/input.safetensors"),
        expected_(folder_ + "/expected.safetensors") {}
  Buffer input(const char* name) const { return permuted(input_.read_f32(name), true); }
  Buffer expected(const std::string& name) const { return expected_.read_f32(name); }
  /// Against the expected values off the ends of logvar's clamp.
  double error(Tensor nhwc, const std::string& name) const {
    const Buffer wanted = expected(name);
    return relative_l2(unclamped(permuted(nhwc, false), wanted), unclamped(wanted, wanted));
  }

  std::string folder_;
  SafetensorsFile input_, expected_;
  Exec exec_;
};

TEST_P(VaeGolden, EncodesAndDecodesAsDiffusers) {
  const Vae vae = Vae::load(folder_);
  const Moments moments = vae.encode(exec_, input("image"));
  EXPECT_LE(error(moments.mean, "mean"), tolerance);
  EXPECT_LE(error(moments.logvar, "logvar"), tolerance);
  EXPECT_LE(relative_l2(permuted(moments.logvar, false), expected("logvar")), tolerance);
  EXPECT_LE(error(vae.decode(exec_, input("latent")), "image"), tolerance);
}

TEST_P(VaeGolden, Bf16ErrsAtMostTwiceAsMuchAsPyTorchs) {
  const Vae vae = Vae::load(folder_, DType::bf16);
  const Moments moments = vae.encode(exec_, input("image"));
  const auto allowed = [&](const std::string& name) {
    return 2 * *expected("bf16_error." + name).as<float>();
  };
  EXPECT_LE(error(moments.mean, "mean"), allowed("mean"));
  EXPECT_LE(error(moments.logvar, "logvar"), allowed("logvar"));
  EXPECT_LE(error(vae.decode(exec_, input("latent")), "image"), allowed("image"));
}

INSTANTIATE_TEST_SUITE_P(, VaeGolden, testing::Values("sd2", "old", "sd3", "flat", "narrow"),
                         [](const auto& info) { return std::string(info.param); });

class VaeTiles : public VaeGolden {};

TEST_P(VaeTiles, AreDiffusers) {
  const Vae vae = Vae::load(folder_);
  const std::int64_t tile = *expected_.read_i64("tile").as<std::int64_t>();
  const Buffer latent = input("wide");
  EXPECT_LE(error(decode_in_tiles(exec_, vae, latent, tile), "tiled"), tolerance);
  EXPECT_LE(error(decode_in_tiles(exec_, vae, latent, 0), "untiled"), tolerance);
  // Decoding in one piece is another picture, so the first line says something.
  EXPECT_GT(relative_l2(expected("untiled"), expected("tiled")), 0.01);
}

TEST_P(VaeTiles, WhatFitsOneTileIsDecodedInOnePiece) {
  const Vae vae = Vae::load(folder_);
  const Buffer latent = input("wide");
  const Buffer tiled = decode_in_tiles(exec_, vae, latent, 1024),
               whole = decode_in_tiles(exec_, vae, latent, 0);
  EXPECT_EQ(relative_l2(tiled, whole), 0);
}

INSTANTIATE_TEST_SUITE_P(, VaeTiles, testing::Values("sd2", "old"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Vae, TilesBoundTheMemory) {
  const Vae vae = Vae::load(golden("vae/sd2"));
  std::size_t peak[2];
  for (const int i : {0, 1}) {
    Exec exec;
    const Buffer latent = Buffer::zeros(DType::f32, {1, 10 << i, 9 << i, 4});
    const Buffer image = decode_in_tiles(exec, vae, latent, 32);
    EXPECT_EQ(image.tensor().shape, (Shape{1, 40 << i, 36 << i, 3}));
    peak[i] = exec.arena.peak_bytes();
  }
  EXPECT_EQ(peak[0], peak[1]);
}

/// The error's code, and whether its text holds `part`.
template <class Body>
void expect_error(Exit code, const std::string& part, Body body) {
  try {
    body();
    ADD_FAILURE() << "no error: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(Vae, RefusesTilesThatDoNotOverlapByAQuarterAndImagesBelowALatentPixel) {
  const Vae vae = Vae::load(golden("vae/sd2"));
  Exec exec;
  const Buffer latent = Buffer::zeros(DType::f32, {1, 9, 9, 4});
  for (const int tile : {-16, 8, 24})
    expect_error(Exit::usage, "--tile", [&] { decode_in_tiles(exec, vae, latent, tile); });
  const Buffer image = Buffer::zeros(DType::f32, {1, 3, 9, 3});
  expect_error(Exit::data, "3 x 9", [&] { vae.encode(exec, image); });
}

TEST(Vae, KnowsItsScales) {
  const Vae sd2 = Vae::load(golden("vae/sd2")), old = Vae::load(golden("vae/old"));
  EXPECT_FLOAT_EQ(sd2.scaling().scale, 0.18215f);  // the default of a file that does not say
  EXPECT_FLOAT_EQ(sd2.scaling().shift, 0);
  EXPECT_FLOAT_EQ(old.scaling().scale, 0.5f);
  EXPECT_EQ(sd2.downsample_factor(), 4);
  EXPECT_EQ(old.latent_channels(), 3);
  EXPECT_EQ(sd2.weights_sha256().size(), 64u);
  EXPECT_NE(sd2.weights_sha256(), old.weights_sha256());
  const LatentScaling shifted = Vae::load(golden("vae/sd3")).scaling();
  EXPECT_FLOAT_EQ(shifted.to_model(2), (2 - 0.0609f) * 1.5305f);
  EXPECT_FLOAT_EQ(shifted.to_vae(shifted.to_model(2)), 2);
  EXPECT_EQ(Vae::load(golden("vae/flat")).scaling().shift, 0);  // null
}

// Attention weights of LDM's own files, (C,C,1,1), are refused as diffusers refuses them.
TEST(Vae, RefusesAttentionStoredAsConvolutionsByName) {
  const TemporaryFolder folder;
  std::filesystem::copy(golden("vae/old/config.json"), folder / "config.json");
  const std::string weights = "diffusion_pytorch_model.safetensors";
  const SafetensorsFile file(golden("vae/old/" + weights));
  std::vector<Buffer> values;
  SafetensorsWriter writer;
  for (const auto& [name, entry] : file.entries()) {
    auto shape = entry.shape;
    if (name.ends_with("value.weight")) shape.insert(shape.end(), {1, 1});
    writer.add(name, values.emplace_back(file.read_f32(name)), shape);
  }
  writer.write(folder / weights);
  expect_error(Exit::data, "value.weight has shape (12, 12, 1, 1)",
               [&] { Vae::load(folder.path()); });
}

TEST(Vae, Sd2sConfigHasSd2sParameters) {
  const VaeConfig config = VaeConfig::from_json_file(golden("vae/sd2-full/config.json"));
  ParameterTable table;
  const VaeEncoder encoder(table, config);
  const VaeDecoder decoder(table, config);
  EXPECT_EQ(table.numel(), 83'653'863);
  std::ifstream keys(golden("vae/sd2-full/keys.tsv"));
  int count = 0;
  for (std::string line; std::getline(keys, line); ++count) {
    const std::size_t tab = line.find('\t');
    ASSERT_NE(tab, std::string::npos) << line;
    const ParamId id = table.find(line.substr(0, tab));
    ASSERT_NE(id, no_param) << line;
    EXPECT_EQ(fmt::format("[{}]", fmt::join(table[id].shape, ", ")), line.substr(tab + 1)) << line;
  }
  EXPECT_EQ(count, 248);
  EXPECT_EQ(table.size(), 248);
}

}  // namespace
}  // namespace strata::test
