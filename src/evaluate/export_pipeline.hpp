#pragma once

#include <string>

#include "dist/communicator.hpp"
#include "evaluate/denoiser.hpp"

namespace strata {

struct PipelineExport {
  std::string out;
  DType dtype = DType::f32;  // of the U-Net's stored tensors
  std::string vae;           // folder to copy, or empty
  std::string encoder;       // folder to copy, or empty
};

/// out/unet/, out/scheduler/scheduler_config.json and model_index.json; with the folders given also
/// out/vae/, out/text_encoder/ and out/tokenizer/, copied file by file. Error(73) where `out`
/// exists.
void export_pipeline(const Denoiser& denoiser, const PipelineExport& options);

/// A checkpoint of step 0 below `root`, its weights only; returns its folder.
std::string export_checkpoint(Communicator& communicator, const Denoiser& denoiser,
                              const std::string& root);

}  // namespace strata
