#pragma once
// Images -> VAE latents, once, before training.

#include <string>

#include "data/cache_format.hpp"
#include "data/image.hpp"
#include "dist/communicator.hpp"

namespace strata {

struct LatentOptions {
  std::string vae;    // folder of the VAE, or of the pipeline that holds it
  std::string index;  // index.jsonl
  std::string out;
  int resolution = 256;  // square; a multiple of the VAE's downsampling
  /// sample: one draw from the posterior; mean: its mean; moments: its mean and deviation, from
  /// which training draws afresh in every epoch.
  std::string kind = "sample";
  CacheDType dtype = CacheDType::bfloat16;
  Resample resample = Resample::bilinear;
  DType compute = DType::f32;
  Device device{};                  // of the encoder
  std::uint64_t seed = 17;          // of the posterior draws
  int batch = 8;                    // images encoded together
  std::int64_t rows_per_shard = 0;  // 0: default_rows_per_shard
  bool overwrite = false;
};

/// Collective. Writes the latent cache. With m = (mean - shift) * scale and s = exp(logvar / 2) *
/// scale (LatentScaling), a row is m (mean), m + s * noise (sample; the noise is a pure function of
/// (seed, sample id)) or [m | s] along the channels (moments). Finished shards of a killed run
/// are kept; the result is byte-identical whatever the ranks and kills. False when the cache was
/// complete before.
bool cache_latents(const LatentOptions& options, Communicator& communicator);

}  // namespace strata
