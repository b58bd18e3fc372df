#pragma once
// Text in, pictures out: U-Net with guidance, then the VAE's decoder.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "diffusion/guidance.hpp"
#include "diffusion/sampler.hpp"
#include "evaluate/png.hpp"
#include "model/unet.hpp"
#include "model/vae.hpp"

namespace strata {

/// Already encoded prompts, host f32: tokens (T,D) of all prompts laid end to end, offsets (n+1)
/// i64, pooled (n,P) or absent.
struct EncodedPrompts {
  Buffer tokens, offsets, pooled;
  std::int64_t count() const { return offsets.tensor().numel() - 1; }
};

/// One picture to make: which encoded prompt, and which noise.
struct ImageRequest {
  std::int64_t prompt = 0;  // index into EncodedPrompts
  std::uint64_t seed = 0;   // base seed + row in the prompt file
  int variation = 0;        // k: further pictures of the same prompt
};

/// What a picture was made of and went through, f32 on the host, so that another framework can
/// replay it: noise and latents (C,h,w), tokens (t,D), pooled (P) or absent.
struct PictureDump {
  Tensor noise, tokens, pooled, latents;
};

struct GenerateOptions {
  Guidance guidance;
  int steps = 50;
  SamplerKind sampler = SamplerKind::ddim;
  int batch = 8;          // every forward has this shape, short batches are padded
  int latent_height = 0;  // 0: the U-Net's sample size
  int latent_width = 0;
  int tile = 0;  // pixels a side of the tiles that the VAE decodes (decode_in_tiles); 0: one piece
  /// Called for each picture when it is done; `latents` is what the VAE decodes, unscaled.
  std::function<void(const ImageRequest&, const PictureDump&)> dump{};
};

/// Pictures of `requests`, in their order. The noise is a pure function of (seed, variation), and a
/// picture's bits do not depend on its neighbours: only on the weights, options, build and machine.
std::vector<Image> generate_images(Exec&, const UNet&, const Weights&, const SamplerConfig&,
                                   const Vae&, const EncodedPrompts&,
                                   std::span<const ImageRequest> requests, const GenerateOptions&);

}  // namespace strata
