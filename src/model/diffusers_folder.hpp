#pragma once
// A U-Net as diffusers lays it out: config.json + diffusion_pytorch_model.safetensors.

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/parameters.hpp"
#include "model/unet_config.hpp"

namespace strata {

/// Everything of a U-Net's folder that its weights and UNetConfig do not say, so that the folder
/// can be written again byte for byte.
struct UNetFileLayout {
  std::string config;                                  // config.json
  std::map<std::string, std::string> metadata;         // of the safetensors file
  std::vector<std::pair<std::string, DType>> tensors;  // in the order of the file

  std::string to_json() const;
  /// Error(65) naming `path`.
  static UNetFileLayout from_json(std::string_view json, const std::string& path);
};

/// The layout that a U-Net made here is given: its tensors in the table's order, and a zero bias of
/// `encoder_hid_proj` where it has the projection without one, because diffusers' nn.Linear expects
/// it. dtype: f32, bf16 or f16, of the stored tensors.
UNetFileLayout default_layout(const UNetConfig& config, const ParameterTable& table, DType dtype);

/// `dir` is made anew, whole or not at all. flat: f32, host, laid out by the table. Error(73) where
/// `dir` exists, 65 where layout and table have other tensors.
void write_unet_folder(const std::string& dir, const ParameterTable& table, Tensor flat,
                       const UNetFileLayout& layout);

struct LoadedUNet {
  UNetConfig config;
  Buffer flat;            // f32, host, in the order of UNet(config).parameters()
  std::string sha256;     // of the weight files
  UNetFileLayout layout;  // shards of an index are taken as one file
};

/// dir: the module's own folder, or the pipeline folder that holds `unet/`. A zero bias of
/// `encoder_hid_proj` is left out again. Error(65).
LoadedUNet read_unet_folder(const std::string& dir);

}  // namespace strata
