#pragma once

#include "diffusion/guidance.hpp"
#include "diffusion/sampler.hpp"
#include "model/unet.hpp"

namespace strata {

/// Latents (B,H,W,C) f32 host, in place: at the start unit normal noise, at the end the sampled
/// latents (still times the VAE's scaling factor). `text` has B ranges, `pooled` (B,P) T or absent.
/// Without guidance only the conditional half runs; otherwise every step is one forward of 2B rows,
/// of which the first B see an empty set of keys and a pooled vector of zeros.
void sample_latents(Exec&, const UNet&, const Weights&, const TextBatch& text, Tensor pooled,
                    Tensor latents, Sampler&, Guidance);

}  // namespace strata
