#pragma once
// A U-Net as diffusers lays it out: config.json + diffusion_pytorch_model.safetensors.

#include <string>

#include "model/parameters.hpp"
#include "model/unet_config.hpp"

namespace strata {

/// `dir` is made anew, whole or not at all. flat: f32, host, laid out by the table. dtype: f32,
/// bf16 or f16, of the stored tensors. A zero bias of `encoder_hid_proj` is added where the model
/// has the projection without one, because diffusers' nn.Linear expects it. Error(73) where `dir`
/// exists.
void write_unet_folder(const std::string& dir, const UNetConfig& config,
                       const ParameterTable& table, Tensor flat, DType dtype);

struct LoadedUNet {
  UNetConfig config;
  Buffer flat;         // f32, host, in the order of UNet(config).parameters()
  std::string sha256;  // of the weight files
};

/// dir: the module's own folder, or the pipeline folder that holds `unet/`. A zero bias of
/// `encoder_hid_proj` is left out again. Error(65).
LoadedUNet read_unet_folder(const std::string& dir);

}  // namespace strata
