#include "model/unet_config.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "model/config_reader.hpp"

namespace strata {

namespace {

constexpr std::int64_t max_width = 1 << 16, max_layers = 64, max_size = 1 << 14;

/// Keys of UNet2DConditionModel that change what is computed and have one value here.
void require_supported(const ConfigReader& config) {
  config.require("_class_name", {R"("UNet2DConditionModel")"});
  config.require("act_fn", {R"("silu")", R"("swish")"});
  config.require("addition_embed_type", {"null"});
  config.require("attention_type", {R"("default")"});
  config.require("center_input_sample", {"false"});
  config.require("class_embed_type", {R"("projection")"});
  config.require("class_embeddings_concat", {"false"});
  config.require("conv_in_kernel", {"3"});
  config.require("conv_out_kernel", {"3"});
  config.require("cross_attention_norm", {"null"});
  config.require("downsample_padding", {"1"});
  config.require("dropout", {"0"});
  config.require("dual_cross_attention", {"false"});
  config.require("encoder_hid_dim_type", {R"("text_proj")"});
  config.require("mid_block_only_cross_attention", {"false"});
  config.require("mid_block_scale_factor", {"1"});
  config.require("mid_block_type", {R"("UNetMidBlock2DCrossAttn")"});
  config.require("num_class_embeds", {"null"});
  config.require("only_cross_attention", {"false"});
  config.require("resnet_out_scale_factor", {"1"});
  config.require("resnet_skip_time_act", {"false"});
  config.require("resnet_time_scale_shift", {R"("default")"});
  config.require("reverse_transformer_layers_per_block", {"null"});
  config.require("time_cond_proj_dim", {"null"});
  config.require("time_embedding_act_fn", {"null"});
  config.require("time_embedding_type", {R"("positional")"});
  config.require("timestep_post_act", {"null"});
}

/// Which of the blocks have attention; any other type is refused.
std::vector<bool> attention_of(const ConfigReader& config, const std::string& key,
                               const std::string& with, const std::string& without,
                               std::size_t levels) {
  std::vector<std::string> otherwise(4, with);
  (key == "down_block_types" ? otherwise.back() : otherwise.front()) = without;
  const auto types = config.strings(key, otherwise);
  if (types.size() != levels)
    config.refuse(key, fmt::format("block_out_channels has {} entries", levels));
  std::vector<bool> attention;
  for (const auto& type : types) {
    if (type != with && type != without)
      config.refuse(key,
                    fmt::format("{} is not supported (supported: {}, {})", type, with, without));
    attention.push_back(type == with);
  }
  return attention;
}

void read_sample_size(const ConfigReader& config, UNetConfig& unet) {
  if (!config.has("sample_size")) return;
  const auto size = config.integers("sample_size", 2, 0, 1, max_size);
  unet.sample_height = size[0];
  unet.sample_width = size[1];
}

void read_conditions(const ConfigReader& config, UNetConfig& unet) {
  unet.cross_attention_dim = config.integer("cross_attention_dim", 1280, 1, max_width);
  unet.encoder_hid_dim = config.integer("encoder_hid_dim", 0, 1, max_width);
  if (config.has("encoder_hid_dim_type") && unet.encoder_hid_dim == 0)
    config.refuse("encoder_hid_dim_type", "needs encoder_hid_dim");
  if (config.has("class_embed_type")) {
    if (!config.has("projection_class_embeddings_input_dim"))
      config.refuse("class_embed_type", "needs projection_class_embeddings_input_dim");
    unet.pooled_dim = config.integer("projection_class_embeddings_input_dim", 0, 1, max_width);
  }
}

/// Groups and heads must divide the widths.
void require_divisible(const ConfigReader& config, const UNetConfig& unet, const char* heads_key) {
  for (int level = 0; level < unet.levels(); ++level) {
    const std::int64_t width = unet.block_out_channels[level];
    if (width % unet.norm_num_groups != 0)
      config.refuse("norm_num_groups", fmt::format("does not divide {} channels", width));
    const bool attends = unet.down_attention[level] || unet.up_attention[level] ||
                         level + 1 == unet.levels();  // the middle block
    if (attends && width % unet.heads[level] != 0)
      config.refuse(heads_key,
                    fmt::format("{} heads do not divide {} channels", unet.heads[level], width));
  }
}

UNetConfig read_unet_config(const ConfigReader& config) {
  require_supported(config);
  UNetConfig unet;
  unet.block_out_channels =
      config.integers("block_out_channels", {320, 640, 1280, 1280}, 2, max_width);
  const std::size_t levels = unet.block_out_channels.size();
  if (unet.block_out_channels[0] % 2 != 0)
    config.refuse("block_out_channels", "the first must be even (sine and cosine of the timestep)");
  unet.down_attention =
      attention_of(config, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", levels);
  unet.up_attention =
      attention_of(config, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", levels);
  std::reverse(unet.up_attention.begin(), unet.up_attention.end());
  read_sample_size(config, unet);
  unet.in_channels = config.integer("in_channels", 4, 1, max_width);
  unet.out_channels = config.integer("out_channels", 4, 1, max_width);
  unet.layers_per_block = config.integers("layers_per_block", levels, 2, 1, max_layers);
  unet.transformer_layers =
      config.integers("transformer_layers_per_block", levels, 1, 1, max_layers);
  const char* heads =
      config.has("num_attention_heads") ? "num_attention_heads" : "attention_head_dim";
  unet.heads = config.integers(heads, levels, 8, 1, max_width);
  unet.norm_num_groups = config.integer("norm_num_groups", 32, 1, max_width);
  unet.norm_eps = static_cast<float>(config.number("norm_eps", 1e-5));
  unet.use_linear_projection = config.boolean("use_linear_projection", false);
  unet.upcast_attention = config.boolean("upcast_attention", false);
  unet.flip_sin_to_cos = config.boolean("flip_sin_to_cos", true);
  unet.freq_shift = static_cast<float>(config.number("freq_shift", 0));
  read_conditions(config, unet);
  require_divisible(config, unet, heads);
  return unet;
}

}  // namespace

UNetConfig UNetConfig::from_json_file(const std::string& path) {
  return read_unet_config(ConfigReader(path));
}

UNetConfig UNetConfig::from_json(std::string_view json, const std::string& path) {
  return read_unet_config(ConfigReader(json, path));
}

UNetConfig UNetConfig::from_folder(const std::string& dir) {
  UNetConfig unet = from_json_file(dir + "/config.json");
  if (unet.encoder_hid_dim)
    unet.encoder_hid_proj_bias =
        SafetensorsFolder(dir, "diffusion_pytorch_model").contains("encoder_hid_proj.bias");
  return unet;
}

std::string UNetConfig::to_json() const {
  nlohmann::ordered_json json;
  const auto types = [](const std::vector<bool>& attention, const std::string& name) {
    std::vector<std::string> list;
    for (const bool has : attention) list.push_back((has ? "CrossAttn" : "") + name);
    return list;
  };
  const std::vector<bool> up(up_attention.rbegin(), up_attention.rend());
  json["_class_name"] = "UNet2DConditionModel";
  json["_diffusers_version"] = "0.21.0";
  json["act_fn"] = "silu";
  json["attention_head_dim"] = heads;
  json["block_out_channels"] = block_out_channels;
  json["center_input_sample"] = false;
  if (pooled_dim) json["class_embed_type"] = "projection";
  json["cross_attention_dim"] = cross_attention_dim;
  json["down_block_types"] = types(down_attention, "DownBlock2D");
  json["downsample_padding"] = 1;
  if (encoder_hid_dim) {
    json["encoder_hid_dim"] = encoder_hid_dim;
    json["encoder_hid_dim_type"] = "text_proj";
  }
  json["flip_sin_to_cos"] = flip_sin_to_cos;
  json["freq_shift"] = freq_shift;
  json["in_channels"] = in_channels;
  json["layers_per_block"] = layers_per_block;
  json["mid_block_scale_factor"] = 1;
  json["norm_eps"] = std::stod(fmt::format("{}", norm_eps));  // 1e-05, not its f32 neighbour
  json["norm_num_groups"] = norm_num_groups;
  json["out_channels"] = out_channels;
  if (pooled_dim) json["projection_class_embeddings_input_dim"] = pooled_dim;
  if (sample_height == sample_width)
    json["sample_size"] = sample_height;
  else
    json["sample_size"] = {sample_height, sample_width};
  json["transformer_layers_per_block"] = transformer_layers;
  json["up_block_types"] = types(up, "UpBlock2D");
  json["upcast_attention"] = upcast_attention;
  json["use_linear_projection"] = use_linear_projection;
  return json.dump(2) + "\n";
}

}  // namespace strata
