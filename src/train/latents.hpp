#pragma once

#include <cstdint>
#include <span>

#include "core/exec.hpp"
#include "core/rng.hpp"
#include "data/cache_set.hpp"

namespace strata {

/// The scaled latents (B,C,h,w) f32 that a batch stands for: as cached, or, of a cache of moments,
/// mean + std * noise in exec's arena. The noise is a pure function of (key, sample, epoch):
/// neither ranks nor resumes can change it, and every epoch draws afresh. epochs (B).
Tensor draw_latents(Exec&, PhiloxKey key, const Batch&, std::span<const std::uint32_t> epochs);

}  // namespace strata
