#pragma once
// From the config to the parts of a run.

#include <memory>

#include "data/cache_set.hpp"
#include "diffusion/schedule.hpp"
#include "dist/zero2.hpp"
#include "model/unet_config.hpp"
#include "train/config.hpp"

namespace strata {

/// Latents and text joined, held-out samples set apart. The held-out set depends on the ids alone,
/// so that runs of other seeds and encoders share it.
CacheSet open_caches(const TrainConfig& config);

/// The U-Net's config.json as it is. Error(65) for a bad one.
UNetConfig configured_unet(const TrainConfig& config);
/// The U-Net's config with the caches' sizes filled in (sample size, encoder_hid_dim, pooled_dim).
/// Error(65) for a bad config.json, Error(78) where model and caches do not fit.
UNetConfig resolve_unet(const TrainConfig& config, const CacheSet& caches);

NoiseSchedule schedule_of(const DiffusionConfig& config);
/// train.device: the host, or the GPU of this rank (Error(69) where there is none).
Device device_of(const TrainConfig& config, const Communicator& communicator);
/// What gradients travel over; none on the host, where the communicator itself does it. Collective.
std::unique_ptr<Communicator> connect_devices(Communicator& communicator, Device device);
/// For tensors: `between_devices` where it is there, else the ranks' own.
inline Communicator& for_tensors(const std::unique_ptr<Communicator>& between_devices,
                                 Communicator& communicator) {
  return between_devices ? *between_devices : communicator;
}
DType compute_dtype(const TrainConfig& config);
Zero2Options zero2_options(const TrainConfig& config);

/// Images a rank takes at once: train.microbatch, or less where a rank's share of the batch is
/// smaller. Error(64) when the batch cannot be cut into equal microbatches.
std::int64_t microbatch_of(const TrainConfig& config, int ranks);

}  // namespace strata
