#pragma once

#include "model/vae.hpp"

namespace strata {

/// latent (B,h,w,C) f32, unscaled -> image (B,H,W,3) f32 on the host, not clamped.
///
/// tile = 0 decodes in one piece. Otherwise a latent that is larger than one tile of tile x tile
/// pixels is decoded tile by tile, one image at a time, so that memory depends on the tile only
/// (and the image itself): tiles begin every 3/4 tile, and the last quarter of each passes over
/// linearly into the next one, below first and then to the right. The same as diffusers'
/// tiled_decode with tile_sample_min_size = tile and tile_overlap_factor = 0.25. Group norms and
/// the attention see one tile only, so the picture differs from that of one piece everywhere, not
/// just at the seams.
///
/// Error(64) unless tile is a multiple of 4 latent pixels.
Buffer decode_in_tiles(Exec&, const Vae&, Tensor latent, std::int64_t tile);

/// The same error, before there is anything to decode.
void check_tile(const Vae&, std::int64_t tile);

}  // namespace strata
