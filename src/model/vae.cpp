#include "model/vae.hpp"

#include <algorithm>
#include <cmath>

#include "model/config_reader.hpp"
#include "model/vae_parts.hpp"
#include "model/weights.hpp"

namespace strata {

namespace {

constexpr std::int64_t max_width = 1 << 16, max_layers = 64;
constexpr float logvar_least = -30.0f, logvar_most = 20.0f;

void require_types(const ConfigReader& config, const std::string& key, const std::string& type,
                   std::size_t levels) {
  const auto types = config.strings(key, {type});
  for (const auto& name : types)
    if (name != type)
      config.refuse(key, fmt::format("{} is not supported (supported: {})", name, type));
  if (types.size() != levels)
    config.refuse(key, fmt::format("block_out_channels has {} entries", levels));
}

Buffer copy_to_host(Tensor tensor) {
  Buffer host(tensor.dtype, tensor.shape);
  memory::copy(host.tensor().data, host_device, tensor.data, tensor.device, tensor.bytes());
  return host;
}

}  // namespace

VaeConfig VaeConfig::from_json_file(const std::string& path) {
  const ConfigReader config(path);
  config.require("_class_name", {R"("AutoencoderKL")"});
  config.require("act_fn", {R"("silu")", R"("swish")"});
  config.require("latents_mean", {"null"});
  config.require("latents_std", {"null"});
  config.require("in_channels", {"3"});
  config.require("out_channels", {"3"});
  // diffusers takes these nulls for something else than an absent key, or breaks on them.
  for (const char* key :
       {"scaling_factor", "block_out_channels", "down_block_types", "up_block_types",
        "latent_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention",
        "use_quant_conv", "use_post_quant_conv"})
    config.require_not_null(key);
  VaeConfig vae;
  vae.block_out_channels = config.integers("block_out_channels", {64}, 1, max_width);
  const std::size_t levels = vae.block_out_channels.size();
  require_types(config, "down_block_types", "DownEncoderBlock2D", levels);
  require_types(config, "up_block_types", "UpDecoderBlock2D", levels);
  vae.latent_channels = config.integer("latent_channels", 4, 1, max_width);
  vae.layers_per_block = config.integer("layers_per_block", 1, 1, max_layers);
  vae.norm_num_groups = config.integer("norm_num_groups", 32, 1, max_width);
  for (const std::int64_t width : vae.block_out_channels)
    if (width % vae.norm_num_groups != 0)
      config.refuse("norm_num_groups", fmt::format("does not divide {} channels", width));
  vae.mid_attention = config.boolean("mid_block_add_attention", true);
  vae.quant_conv = config.boolean("use_quant_conv", true);
  vae.post_quant_conv = config.boolean("use_post_quant_conv", true);
  vae.scaling = {static_cast<float>(config.number("scaling_factor", 0.18215)),
                 static_cast<float>(config.number("shift_factor", 0))};
  if (!(vae.scaling.scale > 0 && std::isfinite(1 / vae.scaling.scale)))
    config.refuse("scaling_factor", "neither it nor its inverse may be out of range");
  if (!std::isfinite(vae.scaling.shift)) config.refuse("shift_factor", "out of range");
  return vae;
}

struct Vae::Impl {
  explicit Impl(const VaeConfig& c) : config(c), encoder(table, config), decoder(table, config) {}
  Weights weights() const { return {table, flat}; }

  VaeConfig config;
  ParameterTable table;
  VaeEncoder encoder;
  VaeDecoder decoder;
  Buffer flat;
  DType compute = DType::f32;
  std::string sha256;
};

Vae Vae::load(const std::string& dir, DType compute, Device device) {
  const std::string folder = module_folder(dir, "vae");
  VaeConfig config = VaeConfig::from_json_file(folder + "/config.json");
  const SafetensorsFolder files(folder, "diffusion_pytorch_model");
  config.old_attention_names = files.contains("encoder.mid_block.attentions.0.query.weight");
  auto impl = std::make_unique<Impl>(config);
  impl->flat = convert_parameters(load_parameters(impl->table, files), compute, device);
  impl->compute = compute;
  impl->sha256 = files.sha256();
  return Vae(std::move(impl));
}

Vae::Vae(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Vae::~Vae() = default;
Vae::Vae(Vae&&) noexcept = default;

Moments Vae::encode(Exec& exec, Tensor image) const {
  if (std::min(image.shape[1], image.shape[2]) < downsample_factor())
    fail(Exit::data, "an image of {} x {} pixels is smaller than one latent pixel ({})",
         image.shape[1], image.shape[2], downsample_factor());
  const ArenaScope scope(exec.arena);
  Tensor x = image;
  if (x.dtype != impl_->compute) {
    x = exec.empty(impl_->compute, image.shape);
    ops::cast(exec, x, image);
  }
  Tensor moments = impl_->encoder.forward(exec, impl_->weights(), x);
  if (moments.dtype != DType::f32) {
    const Tensor narrow = moments;
    moments = exec.empty(DType::f32, narrow.shape);
    ops::cast(exec, moments, narrow);
  }
  Shape half = moments.shape;
  half[3] /= 2;
  const Tensor mean = exec.empty(DType::f32, half), logvar = exec.empty(DType::f32, half);
  ops::split(exec, mean, logvar, moments);
  Moments result{copy_to_host(mean), copy_to_host(logvar)};
  float* values = result.logvar.as<float>();
  std::transform(values, values + half.numel(), values,
                 [](float x) { return std::clamp(x, logvar_least, logvar_most); });
  return result;
}

Tensor Vae::decode(Exec& exec, Tensor latent) const {
  const int factor = downsample_factor();
  const Tensor image = exec.empty(
      DType::f32, {latent.shape[0], latent.shape[1] * factor, latent.shape[2] * factor, 3});
  const ArenaScope scope(exec.arena);
  Tensor x = latent;
  if (x.dtype != impl_->compute) {
    x = exec.empty(impl_->compute, latent.shape);
    ops::cast(exec, x, latent);
  }
  ops::cast(exec, image, impl_->decoder.forward(exec, impl_->weights(), x));
  return image;
}

const LatentScaling& Vae::scaling() const {
  return impl_->config.scaling;
}
int Vae::downsample_factor() const {
  return 1 << (impl_->config.levels() - 1);
}
int Vae::latent_channels() const {
  return static_cast<int>(impl_->config.latent_channels);
}
const ParameterTable& Vae::parameters() const {
  return impl_->table;
}
const std::string& Vae::weights_sha256() const {
  return impl_->sha256;
}

}  // namespace strata
