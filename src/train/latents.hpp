#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/exec.hpp"
#include "core/rng.hpp"
#include "data/cache_set.hpp"

namespace strata {

/// A batch's counters for what follows: (B).
std::vector<PhiloxCounter> posterior_counters(std::span<const std::int64_t> samples,
                                              std::span<const std::uint32_t> epochs);

/// The scaled latents (B,C,h,w) f32 that cached ones stand for: themselves, or of moments
/// (B,2C,h,w) mean + std * noise in exec's arena. The noise is a pure function of (key, sample,
/// epoch): neither ranks nor resumes can change it, and every epoch draws afresh. at (B,2) i64:
/// posterior_counters.
Tensor draw_latents(Exec&, PhiloxKey key, Tensor cached, bool moments, Tensor at);
/// The same of a batch's, with other epochs than its own.
Tensor draw_latents(Exec&, PhiloxKey key, const Batch&, std::span<const std::uint32_t> epochs);

}  // namespace strata
