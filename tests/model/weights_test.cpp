// Initialisation, loading, configs that are refused.

#include "model/weights.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>

#include "core/file.hpp"
#include "golden.hpp"
#include "model/unet.hpp"
#include "model/vae.hpp"

namespace strata::test {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "strata-weights-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The error's text; fails unless `action` throws Error(65).
std::string data_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::data);
    return e.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return "";
}

// --- initialisation -----------------------------------------------------------------------------

struct Statistics {
  double mean, variance, largest;
};

Statistics statistics_of(Tensor values) {
  const float* x = values.as<float>();
  const auto n = static_cast<double>(values.numel());
  const double mean = std::accumulate(x, x + values.numel(), 0.0) / n;
  double variance = 0, largest = 0;
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    variance += (x[i] - mean) * (x[i] - mean) / n;
    largest = std::max<double>(largest, std::abs(x[i]));
  }
  return {mean, variance, largest};
}

TEST(Initialize, FollowsPyTorchsDefaults) {
  const UNet unet(UNetConfig::from_json_file(golden("unet/sd1/config.json")));
  const auto& table = unet.parameters();
  Buffer flat(DType::f32, {table.numel()});
  initialize(table, flat, 17);
  const Weights weights(table, flat);
  for (ParamId id = 0; id < table.size(); ++id) {
    const std::string& name = table[id].name;
    const auto found = statistics_of(weights[id]);
    const bool norm = name.find("norm") != std::string::npos;
    if (norm) {
      EXPECT_EQ(found.mean, name.ends_with(".weight") ? 1.0 : 0.0) << name;
      EXPECT_EQ(found.variance, 0.0) << name;
      continue;
    }
    const ParamId weight = table.find(name.substr(0, name.rfind('.')) + ".weight");
    const Shape& shape = table[weight].shape;
    const double bound = 1.0 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
    EXPECT_LE(found.largest, bound) << name;
    const auto n = static_cast<double>(table[id].numel());
    // Uniform in +-bound: variance bound^2 / 3; five standard errors of mean and variance.
    EXPECT_NEAR(found.mean, 0.0, 5 * bound / std::sqrt(3 * n)) << name;
    EXPECT_NEAR(found.variance, bound * bound / 3,
                5 * bound * bound * std::sqrt(4.0 / 45 / n) + bound * bound / n)
        << name;
  }
}

TEST(Initialize, DependsOnSeedAndNameOnly) {
  // The same name in two tables of different order and neighbours, and under two layouts.
  ParameterTable one, other;
  const ParamId a = one.add("block.weight", {8, 4, 3, 3}, ParamLayout::conv_krsc);
  other.add("first.weight", {5, 7});
  const ParamId b = other.add("block.weight", {8, 4, 3, 3});
  Buffer flat_one(DType::f32, {one.numel()}), flat_other(DType::f32, {other.numel()});
  initialize(one, flat_one, 3);
  initialize(other, flat_other, 3);
  Buffer file(DType::f32, {8, 4, 3, 3});
  export_parameter(one[a], file, Weights(one, flat_one)[a]);
  const Tensor plain = Weights(other, flat_other)[b];
  EXPECT_EQ(0, std::memcmp(file.tensor().data, plain.data, plain.bytes()));

  Buffer reseeded(DType::f32, {one.numel()});
  initialize(one, reseeded, 4);
  EXPECT_GT(relative_l2(reseeded, flat_one), 1.0);
}

// --- loading ------------------------------------------------------------------------------------

/// Copies a golden model's weights, changed by `edit`, beside its config.
void write_edited(const std::string& from, const TemporaryFolder& to,
                  const std::function<bool(const std::string&, SafetensorsWriter&)>& edit) {
  fs::copy_file(from + "/config.json", to / "config.json");
  const SafetensorsFolder files(from, "diffusion_pytorch_model");
  SafetensorsWriter writer;
  for (const auto& name : files.names())
    if (!edit(name, writer)) writer.add(name, files.read_f32(name));
  edit("", writer);
  writer.write(to / "diffusion_pytorch_model.safetensors");
}

Buffer load_unet(const std::string& dir) {
  const UNet unet(UNetConfig::from_json_file(dir + "/config.json"));
  return load_parameters(unet.parameters(), SafetensorsFolder(dir, "diffusion_pytorch_model"));
}

TEST(LoadParameters, RefusesAMissingTensor) {
  const TemporaryFolder dir;
  write_edited(golden("unet/sd2"), dir,
               [](const auto& name, auto&) { return name == "mid_block.resnets.1.conv1.weight"; });
  EXPECT_NE(data_error([&] { load_unet(dir.path()); }).find("mid_block.resnets.1.conv1.weight"),
            std::string::npos);
}

TEST(LoadParameters, RefusesAWrongShape) {
  const TemporaryFolder dir;
  write_edited(golden("unet/sd2"), dir, [](const auto& name, auto& writer) {
    if (name == "conv_in.bias") writer.add(name, Buffer::zeros(DType::f32, {13}));
    return name == "conv_in.bias";
  });
  const std::string what = data_error([&] { load_unet(dir.path()); });
  EXPECT_NE(what.find("conv_in.bias"), std::string::npos) << what;
  EXPECT_NE(what.find("13"), std::string::npos) << what;
}

TEST(LoadParameters, RefusesATensorThatIsNotInTheModel) {
  const TemporaryFolder dir;
  write_edited(golden("unet/sd2"), dir, [](const auto& name, auto& writer) {
    if (name.empty()) writer.add("conv_in.weight_g", Buffer::zeros(DType::f32, {2}));
    return false;
  });
  EXPECT_NE(data_error([&] { load_unet(dir.path()); }).find("conv_in.weight_g"), std::string::npos);
}

TEST(LoadParameters, AProjectionBiasOfZerosIsNoParameterAndAnotherOneIs) {
  const std::string name = "encoder_hid_proj.bias";
  const auto with_bias = [&](const TemporaryFolder& dir, float value) {
    write_edited(golden("unet/pooled"), dir, [&](const auto& current, auto& writer) {
      if (!current.empty()) return false;
      Buffer bias = Buffer::zeros(DType::f32, {12});
      bias.as<float>()[7] = value;
      writer.add(name, std::move(bias));
      return false;
    });
  };
  const TemporaryFolder zero, nonzero;
  with_bias(zero, 0.0f);
  with_bias(nonzero, 0.5f);
  const Buffer bare = load_unet(golden("unet/pooled")), padded = load_unet(zero.path());
  EXPECT_EQ(0, std::memcmp(bare.tensor().data, padded.tensor().data, bare.tensor().bytes()));
  EXPECT_NE(data_error([&] { load_unet(nonzero.path()); }).find(name), std::string::npos);
  EXPECT_NE(UNet(UNetConfig::from_folder(nonzero.path())).parameters().find(name), no_param);
  EXPECT_EQ(UNet(UNetConfig::from_folder(golden("unet/pooled"))).parameters().find(name), no_param);
}

TEST(ModuleFolder, IsTheFolderItselfOrThePipelines) {
  const TemporaryFolder pipeline;
  EXPECT_NE(data_error([&] { module_folder(pipeline.path(), "unet"); }).find("unet/config.json"),
            std::string::npos);
  fs::create_directory(pipeline / "unet");
  std::ofstream(pipeline / "unet/config.json") << "{}";
  EXPECT_EQ(module_folder(pipeline.path(), "unet"), pipeline / "unet");
  EXPECT_EQ(module_folder(pipeline / "unet", "unet"), pipeline / "unet");
}

// --- configs ------------------------------------------------------------------------------------

struct Refused {
  const char *key, *value;
};

/// The golden config's text with one key set to a JSON value.
std::string edited_config(const std::string& path, const Refused& change) {
  std::string text = read_file(path);
  const std::string quoted = fmt::format("\"{}\":", change.key);
  if (const auto at = text.find(quoted); at != std::string::npos)
    text.replace(at, quoted.size(), "\"_was\":");
  return text.replace(text.find('{'), 1, fmt::format("{{{} {},", quoted, change.value));
}

void expect_refused(const std::string& config, const Refused& change,
                    const std::function<void(const std::string&)>& read) {
  const TemporaryFolder dir;
  std::ofstream(dir / "config.json") << edited_config(config, change);
  const std::string what = data_error([&] { read(dir / "config.json"); });
  EXPECT_NE(what.find(change.key), std::string::npos) << what;
  EXPECT_NE(what.find("config.json"), std::string::npos) << what;
}

TEST(UNetConfig, RefusesWhatItDoesNotCompute) {
  const Refused cases[] = {
      {"act_fn", "\"gelu\""},
      {"addition_embed_type", "\"text_time\""},
      {"attention_head_dim", "[2, 4, 8]"},
      {"attention_head_dim", "0"},
      {"attention_head_dim", "25"},
      {"block_out_channels", "[12, -24]"},
      {"block_out_channels", "[13, 24]"},
      {"block_out_channels", "[99999999999999999999, 24]"},
      {"block_out_channels", "\"wide\""},
      {"class_embed_type", "\"timestep\""},
      {"class_embed_type", "\"projection\""},
      {"act_fn", "null"},
      {"conv_in_kernel", "2"},
      {"cross_attention_dim", "[20, 24]"},
      {"cross_attention_dim", "[20, 20, 20]"},
      {"down_block_types", "[\"CrossAttnDownBlock2D\", \"SimpleCrossAttnDownBlock2D\"]"},
      {"down_block_types", "[\"DownBlock2D\"]"},
      {"downsample_padding", "2"},
      {"dropout", "0.1"},
      {"dual_cross_attention", "true"},
      {"encoder_hid_dim_type", "\"text_proj\""},
      {"freq_shift", "6"},
      {"layers_per_block", "1.5"},
      {"mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\""},
      {"mid_block_scale_factor", "2"},
      {"my_new_gate", "0.5"},
      {"norm_eps", "-1"},
      {"norm_num_groups", "null"},
      {"num_class_embeds", "10"},
      {"only_cross_attention", "[true]"},
      {"only_cross_attention", "1"},
      {"reverse_transformer_layers_per_block", "1"},
      {"reverse_transformer_layers_per_block", "[1, [1, 2, 3]]"},
      {"time_cond_proj_dim", "8"},
      {"transformer_layers_per_block", "[[1], 1, 1]"},
      {"transformer_layers_per_block", "[[1, 2], 1]"},
      {"transformer_layers_per_block", "[[1, true], 1]"},
      {"resnet_time_scale_shift", "\"scale_shift\""},
      {"time_embedding_type", "\"fourier\""},
      {"up_block_types", "[\"UpBlock2D\", 3]"},
  };
  for (const auto& change : cases)
    expect_refused(golden("unet/sd2/config.json"), change,
                   [](const auto& path) { UNetConfig::from_json_file(path); });
}

TEST(UNetConfig, RefusesWidthsThatContradictEachOther) {
  const auto build = [](const std::string& path) { UNetConfig::from_json_file(path); };
  expect_refused(golden("unet/sd2/config.json"), {"norm_num_groups", "5"}, build);
  expect_refused(golden("unet/sd2/config.json"), {"attention_head_dim", "[2, 25]"}, build);
}

TEST(UNetConfig, PassesKeysThatChangeNothing) {
  const Refused cases[] = {
      {"_name_or_path", "\"somewhere\""},
      {"a_later_option", "null"},
      {"another_option", "false"},
      {"addition_time_embed_dim", "256"},
      {"cross_attention_dim", "[20, 20]"},
      {"decay", "0.9999"},
      {"dropout", "0.0"},
      {"mid_block_only_cross_attention", "true"},
      {"projection_class_embeddings_input_dim", "64"},
      {"resnet_skip_time_act", "true"},
      {"time_embedding_dim", "48"},
      {"transformer_layers_per_block", "[1, 1]"},
  };
  const auto plain = UNetConfig::from_json_file(golden("unet/sd2/config.json"));
  for (const auto& change : cases) {
    const std::string text = edited_config(golden("unet/sd2/config.json"), change);
    EXPECT_EQ(UNet(UNetConfig::from_json(text, "edited")).parameters().numel(),
              UNet(plain).parameters().numel())
        << change.key;
  }
}

TEST(UNetConfig, SurvivesARoundTripThroughJson) {
  for (const std::string& name : golden_unets()) {
    const auto config =
        UNetConfig::from_json_file(golden(fmt::format("unet/{}/config.json", name)));
    const TemporaryFolder dir;
    std::ofstream(dir / "config.json") << config.to_json();
    const auto again = UNetConfig::from_json_file(dir / "config.json");
    EXPECT_EQ(again.to_json(), config.to_json());
    const UNet one(config), other(again);
    ASSERT_EQ(one.parameters().size(), other.parameters().size());
    for (ParamId id = 0; id < one.parameters().size(); ++id) {
      EXPECT_EQ(one.parameters()[id].name, other.parameters()[id].name);
      EXPECT_EQ(one.parameters()[id].shape, other.parameters()[id].shape);
    }
    EXPECT_EQ(one.flops(9, 7, 5).forward, other.flops(9, 7, 5).forward);
  }
}

TEST(VaeConfig, RefusesWhatItDoesNotCompute) {
  const Refused cases[] = {
      {"_class_name", "\"AutoencoderTiny\""},
      {"shift_factor", "\"0.1\""},
      {"shift_factor", "1e300"},
      {"latents_mean", "[0, 0, 0, 0]"},
      {"latents_std", "[1, 1, 1, 1]"},
      {"in_channels", "4"},
      {"out_channels", "1"},
      {"scaling_factor", "0"},
      {"scaling_factor", "-1"},
      {"scaling_factor", "1e-300"},
      {"scaling_factor", "null"},
      {"norm_num_groups", "null"},
      {"use_quant_conv", "null"},
      {"latent_channels", "0"},
      {"layers_per_block", "1000"},
      {"layers_per_block", "[1, 2, 2]"},
      {"block_out_channels", "[]"},
      {"norm_num_groups", "3"},
      {"down_block_types", "[\"DownEncoderBlock2D\"]"},
      {"up_block_types", "[\"AttnUpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]"},
      {"use_quant_conv", "1"},
      {"mid_block_add_attention", "\"no\""},
      {"act_fn", "\"relu\""}};
  for (const auto& change : cases)
    expect_refused(golden("vae/sd2/config.json"), change,
                   [](const auto& path) { Vae::load(fs::path(path).parent_path().string()); });
}

}  // namespace
}  // namespace strata::test
