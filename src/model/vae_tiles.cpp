#include "model/vae_tiles.hpp"

#include <algorithm>
#include <vector>

#include "core/error.hpp"

namespace strata {

namespace {

constexpr std::int64_t colours = 3;

/// Decoded pixels (height,width,3) f32 on the host.
struct Tile {
  Buffer pixels;
  std::int64_t height() const { return pixels.tensor().shape[0]; }
  std::int64_t width() const { return pixels.tensor().shape[1]; }
  float* row(std::int64_t y) const { return pixels.as<float>() + y * width() * colours; }
};

/// How many pixels of the second of two neighbours the first one shows in.
std::int64_t overlap(std::int64_t first, std::int64_t second, std::int64_t extent) {
  return std::min({first, second, extent});
}

/// count values of `to` = (1 - share) * from + share * to.
void mix(float* to, const float* from, std::int64_t count, double share) {
  const auto mine = static_cast<float>(share), other = static_cast<float>(1 - share);
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i] * other + to[i] * mine;
}

void blend_below(const Tile& above, const Tile& tile, std::int64_t extent) {
  extent = overlap(above.height(), tile.height(), extent);
  for (std::int64_t y = 0; y < extent; ++y)
    mix(tile.row(y), above.row(above.height() - extent + y), tile.width() * colours,
        static_cast<double>(y) / static_cast<double>(extent));
}

void blend_right(const Tile& left, const Tile& tile, std::int64_t extent) {
  extent = overlap(left.width(), tile.width(), extent);
  for (std::int64_t y = 0; y < tile.height(); ++y)
    for (std::int64_t x = 0; x < extent; ++x)
      mix(tile.row(y) + x * colours, left.row(y) + (left.width() - extent + x) * colours, colours,
          static_cast<double>(x) / static_cast<double>(extent));
}

Buffer to_host(Tensor there, Shape shape) {
  Buffer here(DType::f32, shape);
  memory::copy(here.tensor().data, host_device, there.data, there.device, there.bytes());
  return here;
}

/// At most side x side latent pixels of latent (h,w,C), from (top, left).
Tile decode_tile(Exec& exec, const Vae& vae, Tensor latent, std::int64_t top, std::int64_t left,
                 std::int64_t side) {
  const ArenaScope scope(exec.arena);
  const std::int64_t height = std::min(side, latent.shape[0] - top);
  const std::int64_t width = std::min(side, latent.shape[1] - left);
  const Tensor cut = exec.empty(DType::f32, {height, width, latent.shape[2]});
  for (std::int64_t y = 0; y < height; ++y) {
    const Tensor from =
        latent.rows(top + y, top + y + 1).reshape({latent.shape[1], latent.shape[2]});
    const Tensor to = cut.rows(y, y + 1), row = from.rows(left, left + width);
    memory::copy(to.data, to.device, row.data, row.device, to.bytes());
  }
  const Tensor image = vae.decode(exec, cut.reshape({1, height, width, latent.shape[2]}));
  return {to_host(image, {image.shape[1], image.shape[2], colours})};
}

/// latent (h,w,C) -> image (H,W,3) on the host.
void decode_one(Exec& exec, const Vae& vae, Tensor image, Tensor latent, std::int64_t tile) {
  const std::int64_t factor = vae.downsample_factor(), side = tile / factor, extent = tile / 4;
  const std::int64_t step = side - side / 4, shown = tile - extent;
  std::vector<Tile> above;
  for (std::int64_t top = 0; top < latent.shape[0]; top += step) {
    std::vector<Tile> row;
    for (std::int64_t left = 0; left < latent.shape[1]; left += step) {
      Tile here = decode_tile(exec, vae, latent, top, left, side);
      if (top > 0) blend_below(above[row.size()], here, extent);
      if (left > 0) blend_right(row.back(), here, extent);
      const std::int64_t width = std::min(here.width(), shown);
      for (std::int64_t y = 0; y < std::min(here.height(), shown); ++y)
        std::copy_n(
            here.row(y), width * colours,
            image.as<float>() + ((top * factor + y) * image.shape[1] + left * factor) * colours);
      row.push_back(std::move(here));
    }
    above = std::move(row);
  }
}

}  // namespace

void check_tile(const Vae& vae, std::int64_t tile) {
  const std::int64_t quarters = 4 * std::int64_t{vae.downsample_factor()};
  if (tile < 0 || tile % quarters != 0)
    fail(Exit::usage, "--tile {}: not a multiple of {} pixels", tile, quarters);
}

Buffer decode_in_tiles(Exec& exec, const Vae& vae, Tensor latent, std::int64_t tile) {
  check_tile(vae, tile);
  const std::int64_t factor = vae.downsample_factor();
  const Shape& s = latent.shape;
  if (tile == 0 || std::max(s[1], s[2]) <= tile / factor) {
    const ArenaScope scope(exec.arena);
    const Tensor image = vae.decode(exec, latent);
    return to_host(image, image.shape);
  }
  Buffer images(DType::f32, {s[0], s[1] * factor, s[2] * factor, colours});
  for (std::int64_t b = 0; b < s[0]; ++b)
    decode_one(exec, vae,
               images.tensor().rows(b, b + 1).reshape({s[1] * factor, s[2] * factor, colours}),
               latent.rows(b, b + 1).reshape({s[1], s[2], s[3]}), tile);
  return images;
}

}  // namespace strata
