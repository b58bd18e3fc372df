#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "evaluate/export_pipeline.hpp"
#include "model/diffusers_folder.hpp"
#include "model/unet.hpp"
#include "model/weights.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

class Export : public ::testing::Test {
 protected:
  Export()
      : dir_((fs::temp_directory_path() / ("strata-export-" + std::to_string(::getpid())))
                 .string()) {
    fs::create_directories(dir_);
    denoiser_.config =
        UNetConfig::from_json_file(STRATA_SOURCE_DIR "/configs/miniature/unet/config.json");
    const UNet unet(denoiser_.config);
    denoiser_.flat = Buffer(DType::f32, {unet.parameters().numel()});
    initialize(unet.parameters(), denoiser_.flat, 9);
    denoiser_.hash = "made here";
    denoiser_.text = TextSettings{"layer:2", "causal", 40, true};
  }
  ~Export() override { fs::remove_all(dir_); }

  // Largest difference relative to the larger of |value| and `floor`.
  double difference(const Buffer& other, double floor) const {
    double worst = 0;
    const std::int64_t n = denoiser_.flat.tensor().numel();
    EXPECT_EQ(other.tensor().numel(), n);
    for (std::int64_t i = 0; i < n; ++i) {
      const double a = denoiser_.flat.as<float>()[i], b = other.as<float>()[i];
      worst = std::max(worst, std::abs(a - b) / std::max(std::abs(a), floor));
    }
    return worst;
  }

  std::string dir_;
  Denoiser denoiser_;
};

TEST_F(Export, DiffusersFolderKeepsEveryWeight) {
  export_pipeline(denoiser_, {.out = dir_ + "/f32"});
  EXPECT_EQ(difference(read_unet_folder(dir_ + "/f32").flat, 1e-30), 0);
  const SafetensorsFolder file(dir_ + "/f32/unet", "diffusion_pytorch_model");
  const Buffer bias = file.read_f32("encoder_hid_proj.bias");
  ASSERT_EQ(bias.tensor().numel(), denoiser_.config.cross_attention_dim);
  for (std::int64_t i = 0; i < bias.tensor().numel(); ++i) EXPECT_EQ(bias.as<float>()[i], 0);
  EXPECT_EQ(read_scheduler_file(dir_ + "/f32"), denoiser_.scheduler);
}

// Half of a last place: 2^-8 of the value for bf16 (8 significant bits), 2^-11 for f16 (11 bits,
// down to 2^-14, where subnormals begin).
TEST_F(Export, NarrowTypesRoundToNearest) {
  export_pipeline(denoiser_, {.out = dir_ + "/bf16", .dtype = DType::bf16});
  EXPECT_LE(difference(read_unet_folder(dir_ + "/bf16").flat, 1e-30), 0x1p-8);
  export_pipeline(denoiser_, {.out = dir_ + "/f16", .dtype = DType::f16});
  EXPECT_LE(difference(read_unet_folder(dir_ + "/f16").flat, 0x1p-14), 0x1p-11);
}

TEST_F(Export, CheckpointRoundTrip) {
  const auto alone = local_communicator();
  const std::string checkpoint = export_checkpoint(*alone, denoiser_, dir_ + "/checkpoints");
  const Denoiser again = load_denoiser(checkpoint, DType::f32, WeightKind::automatic);
  EXPECT_EQ(difference(again.flat, 1e-30), 0);
  EXPECT_EQ(again.config.to_json(), denoiser_.config.to_json());
  EXPECT_EQ(again.scheduler, denoiser_.scheduler);
  ASSERT_TRUE(again.text);
  EXPECT_EQ(again.text->strategy, "layer:2");
  EXPECT_EQ(again.text->attention, "causal");
  EXPECT_EQ(again.text->max_tokens, 40);
  EXPECT_TRUE(again.text->pooled);
  EXPECT_THROW(load_denoiser(checkpoint, DType::f32, WeightKind::ema), Error);
}

// Order, types, metadata and config.json of a folder made elsewhere outlive a checkpoint, with and
// without the bias of the projection.
TEST_F(Export, AFolderFromElsewhereComesBackByteForByte) {
  const auto alone = local_communicator();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const bool with_bias : {true, false}) {
      const std::string name = dir_ + "/" + std::string(name_of(dtype)) + (with_bias ? "-b" : "");
      const UNet unet(denoiser_.config);
      auto layout = default_layout(denoiser_.config, unet.parameters(), dtype);
      layout.config.insert(1, "\n  \"_a_key_of_another_version\": [1, 2],");
      layout.metadata = {{"format", "pt"}, {"author", "\"someone\""}};
      std::reverse(layout.tensors.begin(), layout.tensors.end());
      if (!with_bias)
        std::erase_if(layout.tensors,
                      [](const auto& t) { return t.first == "encoder_hid_proj.bias"; });
      layout.tensors.front().second = DType::f32;
      write_unet_folder(name + "/source/unet", unet.parameters(), denoiser_.flat, layout);
      write_file_atomically(name + "/source/unet/config.json", layout.config);
      make_directories(name + "/source/scheduler");
      write_file_atomically(name + "/source/scheduler/scheduler_config.json",
                            R"({"_class_name": "EulerDiscreteScheduler", "note": -Infinity})");

      const auto loaded = load_denoiser(name + "/source", DType::f32, WeightKind::automatic);
      const auto checkpoint = export_checkpoint(*alone, loaded, name + "/checkpoints");
      const auto again = load_denoiser(checkpoint, DType::f32, WeightKind::automatic);
      export_pipeline(again, {.out = name + "/back"});
      for (const char* file : {"unet/diffusion_pytorch_model.safetensors", "unet/config.json",
                               "scheduler/scheduler_config.json"})
        EXPECT_EQ(read_file(name + "/source/" + file), read_file(name + "/back/" + file))
            << name << " " << file;
    }
}

TEST_F(Export, ADamagedLayoutIsRefused) {
  for (const char* json : {"{}", "[]", R"({"config": 1, "metadata": {}, "tensors": []})",
                           R"({"config": "", "metadata": {}, "tensors": [["a", "I64"]]})",
                           R"({"config": "", "metadata": {}, "tensors": ["a"]})"})
    EXPECT_THROW(UNetFileLayout::from_json(json, "here"), Error) << json;
  const UNet unet(denoiser_.config);
  auto layout = default_layout(denoiser_.config, unet.parameters(), DType::f32);
  layout.tensors.pop_back();
  EXPECT_THROW(write_unet_folder(dir_ + "/u", unet.parameters(), denoiser_.flat, layout), Error);
}

TEST_F(Export, NothingIsOverwritten) {
  export_pipeline(denoiser_, {.out = dir_ + "/once"});
  try {
    export_pipeline(denoiser_, {.out = dir_ + "/once"});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::cannot_create);
  }
  EXPECT_THROW(load_denoiser(dir_, DType::f32, WeightKind::automatic), Error);
}

}  // namespace
}  // namespace strata
