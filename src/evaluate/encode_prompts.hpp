#pragma once

#include "evaluate/denoiser.hpp"
#include "evaluate/generate.hpp"
#include "text/text_encoder.hpp"

namespace strata {

/// Texts as the U-Net `config` wants them. Error(78) where the encoder's width is not the U-Net's.
EncodedPrompts encode_prompts(Exec&, const TextEncoder&, std::span<const std::string> texts,
                              const TextSettings&, const UNetConfig& config);

}  // namespace strata
