#include "model/unet_config.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "model/config_reader.hpp"

namespace strata {

namespace {

constexpr std::int64_t max_width = 1 << 16, max_layers = 64, max_size = 1 << 14;

/// Every key of UNet2DConditionModel, and what diffusers' EMA writes beside them.
constexpr std::string_view known_keys[] = {
    "act_fn",
    "addition_embed_type",
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "attention_head_dim",
    "attention_type",
    "block_out_channels",
    "center_input_sample",
    "class_embed_type",
    "class_embeddings_concat",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_dim",
    "cross_attention_norm",
    "decay",
    "down_block_types",
    "downsample_padding",
    "dropout",
    "dual_cross_attention",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "inv_gamma",
    "layers_per_block",
    "mid_block_only_cross_attention",
    "mid_block_scale_factor",
    "mid_block_type",
    "min_decay",
    "norm_eps",
    "norm_num_groups",
    "num_attention_heads",
    "num_class_embeds",
    "only_cross_attention",
    "optimization_step",
    "out_channels",
    "power",
    "projection_class_embeddings_input_dim",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "resnet_time_scale_shift",
    "reverse_transformer_layers_per_block",
    "sample_size",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "time_embedding_type",
    "timestep_post_act",
    "transformer_layers_per_block",
    "up_block_types",
    "update_after_step",
    "upcast_attention",
    "use_ema_warmup",
    "use_linear_projection",
};

/// Keys for which diffusers takes null as something else than the default.
constexpr const char* not_null_keys[] = {
    "act_fn",
    "attention_head_dim",
    "attention_type",
    "block_out_channels",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "dropout",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
    "only_cross_attention",
    "out_channels",
    "resnet_time_scale_shift",
    "time_embedding_type",
    "transformer_layers_per_block",
    "up_block_types",
};

/// Keys that change what is computed and have one value here. Others that are known and not read
/// change nothing in the blocks that are supported.
void require_supported(const ConfigReader& config) {
  config.refuse_unknown(known_keys);
  for (const char* key : not_null_keys) config.require_not_null(key);
  config.require("_class_name", {R"("UNet2DConditionModel")"});
  config.require("act_fn", {R"("silu")", R"("swish")"});
  config.require("addition_embed_type", {"null"});
  config.require("attention_type", {R"("default")"});
  config.require("class_embed_type", {R"("projection")"});
  config.require("class_embeddings_concat", {"false"});
  config.require("dropout", {"0"});
  config.require("dual_cross_attention", {"false"});
  config.require("encoder_hid_dim_type", {R"("text_proj")"});
  config.require("mid_block_scale_factor", {"1"});
  config.require("num_class_embeds", {"null"});
  config.require("resnet_time_scale_shift", {R"("default")"});
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

constexpr const char* middle_with_attention = "UNetMidBlock2DCrossAttn";
constexpr const char* middle_without = "UNetMidBlock2D";

/// Null is no middle block at all; absent is the default.
UNetConfig::Middle middle_of(const ConfigReader& config) {
  const std::string key = "mid_block_type";
  if (config.is_null(key)) return UNetConfig::Middle::none;
  const std::string type = config.text(key, middle_with_attention);
  if (type == middle_with_attention) return UNetConfig::Middle::cross_attention;
  if (type == middle_without) return UNetConfig::Middle::residual;
  config.refuse(key, fmt::format("not supported (supported: {}, {}, null)", middle_with_attention,
                                 middle_without));
}

void read_blocks(const ConfigReader& config, UNetConfig& unet) {
  const std::size_t levels = unet.block_out_channels.size();
  unet.down_attention =
      attention_of(config, "down_block_types", "CrossAttnDownBlock2D", "DownBlock2D", levels);
  unet.up_attention =
      attention_of(config, "up_block_types", "CrossAttnUpBlock2D", "UpBlock2D", levels);
  std::reverse(unet.up_attention.begin(), unet.up_attention.end());
  unet.middle = middle_of(config);
  unet.layers_per_block = config.integers("layers_per_block", levels, 2, 1, max_layers);
  unet.only_cross_attention = config.booleans("only_cross_attention", levels, false);
  unet.downsample_padding = config.integer("downsample_padding", 1, 0, 1);
}

/// One number a level, or one a stage: then both directions must be told, because an up block has
/// one stage more.
void read_transformer_layers(const ConfigReader& config, UNetConfig& unet) {
  const char *down = "transformer_layers_per_block", *up = "reverse_transformer_layers_per_block";
  const std::size_t levels = unet.block_out_channels.size();
  const auto check = [&](const char* key, const UNetConfig::Depths& depths, int more) {
    for (std::size_t level = 0; level < levels; ++level) {
      const auto stages = static_cast<std::size_t>(unet.layers_per_block[level] + more);
      if (depths[level].size() != 1 && depths[level].size() != stages)
        config.refuse(key, fmt::format("level {} (finest first) has {} stages", level, stages));
    }
  };
  unet.transformer_layers = config.nested_integers(down, levels, 1, 0, max_layers);
  check(down, unet.transformer_layers, 0);
  if (config.has(up)) {
    if (!config.is_list(up)) config.refuse(up, "not a list");
    unet.up_transformer_layers = config.nested_integers(up, levels, 1, 0, max_layers);
    std::reverse(unet.up_transformer_layers.begin(), unet.up_transformer_layers.end());
    check(up, unet.up_transformer_layers, 1);
    return;
  }
  for (const auto& depths : unet.transformer_layers)
    if (depths.size() != 1) config.refuse(down, fmt::format("needs {}", up));
}

void read_ends(const ConfigReader& config, UNetConfig& unet) {
  if (config.has("sample_size")) {
    const auto size = config.integers("sample_size", 2, 0, 1, max_size);
    unet.sample_height = size[0];
    unet.sample_width = size[1];
  }
  unet.in_channels = config.integer("in_channels", 4, 1, max_width);
  unet.out_channels = config.integer("out_channels", 4, 1, max_width);
  unet.center_input_sample = config.boolean("center_input_sample", false);
  const auto kernel = [&](const char* key) {
    const std::int64_t extent = config.integer(key, 3, 1, 15);
    if (extent % 2 == 0) config.refuse(key, "not supported: even kernels change the image's size");
    return extent;
  };
  unet.conv_in_kernel = kernel("conv_in_kernel");
  unet.conv_out_kernel = kernel("conv_out_kernel");
}

void read_timestep(const ConfigReader& config, UNetConfig& unet) {
  if (unet.block_out_channels[0] % 2 != 0)
    config.refuse("block_out_channels", "the first must be even (sine and cosine of the timestep)");
  unet.time_width = config.integer("time_embedding_dim", 0, 1, max_width);
  unet.flip_sin_to_cos = config.boolean("flip_sin_to_cos", true);
  unet.freq_shift = static_cast<float>(config.number("freq_shift", 0));
  if (!(unet.freq_shift < static_cast<float>(unet.block_out_channels[0] / 2)))
    config.refuse("freq_shift", "not below half of the first of block_out_channels");
}

/// The width of the text where it is attended to: the levels' widths may differ elsewhere only.
std::int64_t text_width_of(const ConfigReader& config, const UNetConfig& unet) {
  const char* key = "cross_attention_dim";
  const auto widths = config.integers(key, unet.block_out_channels.size(), 1280, 1, max_width);
  std::int64_t width = 0;
  for (int level = 0; level < unet.levels(); ++level) {
    const bool deepest = level + 1 == unet.levels();
    const bool attends = unet.down_attention[level] || unet.up_attention[level] ||
                         (deepest && unet.middle == UNetConfig::Middle::cross_attention);
    if (!attends) continue;
    if (width != 0 && widths[level] != width)
      config.refuse(key, "not supported: texts of different widths");
    width = widths[level];
  }
  return width != 0 ? width : widths[0];
}

void read_conditions(const ConfigReader& config, UNetConfig& unet) {
  unet.cross_attention_dim = text_width_of(config, unet);
  unet.encoder_hid_dim = config.integer("encoder_hid_dim", 0, 1, max_width);
  if (config.has("encoder_hid_dim_type") && unet.encoder_hid_dim == 0)
    config.refuse("encoder_hid_dim_type", "needs encoder_hid_dim");
  if (config.has("class_embed_type")) {
    if (!config.has("projection_class_embeddings_input_dim"))
      config.refuse("class_embed_type", "needs projection_class_embeddings_input_dim");
    unet.pooled_dim = config.integer("projection_class_embeddings_input_dim", 0, 1, max_width);
  }
}

/// What diffusers calls the width of a head is their number (its issue 2011).
void read_attention(const ConfigReader& config, UNetConfig& unet) {
  const char* key =
      config.has("num_attention_heads") ? "num_attention_heads" : "attention_head_dim";
  unet.heads = config.integers(key, unet.block_out_channels.size(), 8, 1, max_width);
  unet.use_linear_projection = config.boolean("use_linear_projection", false);
  unet.upcast_attention = config.boolean("upcast_attention", false);
  for (int level = 0; level < unet.levels(); ++level)
    if (unet.heads[level] > unet.block_out_channels[level])
      config.refuse(key, fmt::format("{} heads, {} channels", unet.heads[level],
                                     unet.block_out_channels[level]));
}

void read_norms(const ConfigReader& config, UNetConfig& unet) {
  unet.norm_num_groups = config.integer("norm_num_groups", 32, 1, max_width);
  for (const std::int64_t width : unet.block_out_channels)
    if (width % unet.norm_num_groups != 0)
      config.refuse("norm_num_groups", fmt::format("does not divide {} channels", width));
  unet.norm_eps = static_cast<float>(config.number("norm_eps", 1e-5));
  if (unet.norm_eps < 0) config.refuse("norm_eps", "negative");
}

UNetConfig read_unet_config(const ConfigReader& config) {
  require_supported(config);
  UNetConfig unet;
  unet.block_out_channels =
      config.integers("block_out_channels", {320, 640, 1280, 1280}, 2, max_width);
  read_blocks(config, unet);
  read_transformer_layers(config, unet);
  read_ends(config, unet);
  read_timestep(config, unet);
  read_conditions(config, unet);
  read_attention(config, unet);
  read_norms(config, unet);
  return unet;
}

/// A list of numbers where no level tells its stages apart.
nlohmann::ordered_json as_json(const UNetConfig::Depths& depths) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& level : depths)
    list.push_back(level.size() == 1 ? nlohmann::ordered_json(level[0])
                                     : nlohmann::ordered_json(level));
  return list;
}

std::vector<std::string> block_types(const std::vector<bool>& attention, const std::string& name) {
  std::vector<std::string> types;
  for (const bool has : attention) types.push_back((has ? "CrossAttn" : "") + name);
  return types;
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

bool UNetConfig::attends() const {
  const auto any = [](const std::vector<bool>& list) {
    return std::find(list.begin(), list.end(), true) != list.end();
  };
  return any(down_attention) || any(up_attention) || middle == Middle::cross_attention;
}

bool UNetConfig::replaces_self_attention() const {
  for (int level = 0; level < levels(); ++level)
    if (only_cross_attention[level] && (down_attention[level] || up_attention[level])) return true;
  return false;
}

std::string UNetConfig::to_json() const {
  nlohmann::ordered_json json;
  json["_class_name"] = "UNet2DConditionModel";
  json["_diffusers_version"] = "0.21.0";
  json["act_fn"] = "silu";
  json["attention_head_dim"] = heads;
  json["block_out_channels"] = block_out_channels;
  json["center_input_sample"] = center_input_sample;
  if (pooled_dim) json["class_embed_type"] = "projection";
  json["conv_in_kernel"] = conv_in_kernel;
  json["conv_out_kernel"] = conv_out_kernel;
  json["cross_attention_dim"] = cross_attention_dim;
  json["down_block_types"] = block_types(down_attention, "DownBlock2D");
  json["downsample_padding"] = downsample_padding;
  if (encoder_hid_dim) {
    json["encoder_hid_dim"] = encoder_hid_dim;
    json["encoder_hid_dim_type"] = "text_proj";
  }
  json["flip_sin_to_cos"] = flip_sin_to_cos;
  json["freq_shift"] = freq_shift;
  json["in_channels"] = in_channels;
  json["layers_per_block"] = layers_per_block;
  json["mid_block_scale_factor"] = 1;
  if (middle == Middle::none)
    json["mid_block_type"] = nullptr;
  else
    json["mid_block_type"] =
        middle == Middle::cross_attention ? middle_with_attention : middle_without;
  json["norm_eps"] = std::stod(fmt::format("{}", norm_eps));  // 1e-05, not its f32 neighbour
  json["norm_num_groups"] = norm_num_groups;
  if (replaces_self_attention())
    json["only_cross_attention"] = only_cross_attention;
  else
    json["only_cross_attention"] = false;
  json["out_channels"] = out_channels;
  if (pooled_dim) json["projection_class_embeddings_input_dim"] = pooled_dim;
  if (!up_transformer_layers.empty())
    json["reverse_transformer_layers_per_block"] =
        as_json({up_transformer_layers.rbegin(), up_transformer_layers.rend()});
  if (sample_height == sample_width)
    json["sample_size"] = sample_height;
  else
    json["sample_size"] = {sample_height, sample_width};
  if (time_width) json["time_embedding_dim"] = time_width;
  json["transformer_layers_per_block"] = as_json(transformer_layers);
  json["up_block_types"] = block_types({up_attention.rbegin(), up_attention.rend()}, "UpBlock2D");
  json["upcast_attention"] = upcast_attention;
  json["use_linear_projection"] = use_linear_projection;
  return json.dump(2) + "\n";
}

}  // namespace strata
