#pragma once

#include <string>

#include "dist/communicator.hpp"
#include "evaluate/denoiser.hpp"

namespace strata {

struct PipelineExport {
  std::string out;
  /// Of the U-Net's stored tensors; absent: as in the folder that they once came from, else f32.
  std::optional<DType> dtype{};
  std::string vae{};      // folder to copy, or empty
  std::string encoder{};  // folder to copy, or empty
};

/// out/unet/, out/scheduler/scheduler_config.json and model_index.json; with the folders given also
/// out/vae/, out/text_encoder/ and out/tokenizer/, copied file by file. Error(73) where `out`
/// exists. A U-Net that came from a diffusers folder and was not trained since, exported without
/// dtype, has that folder's bytes.
void export_pipeline(const Denoiser& denoiser, const PipelineExport& options);

/// A checkpoint of step 0 below `root`, its weights only; returns its folder.
std::string export_checkpoint(Communicator& communicator, const Denoiser& denoiser,
                              const std::string& root);

}  // namespace strata
