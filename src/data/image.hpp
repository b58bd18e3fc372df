#pragma once
// Encoded images in memory -> RGB pixels, resized and cropped exactly as Pillow and torchvision do.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

/// 8-bit RGB, row-major, (height, width, 3).
struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
};

enum class Resample { bilinear, bicubic, lanczos };
/// "bilinear", "bicubic" or "lanczos"; anything else is Error(64).
Resample parse_resample(const std::string& name);

inline constexpr std::int64_t max_image_pixels = 100'000'000;

struct DecodeResult {
  Image image;
  std::string error;  // empty when the image was decoded
  explicit operator bool() const { return error.empty(); }
};

/// Decodes JPEG, PNG or WebP, found by their first bytes, to what Pillow's `convert("RGB")` gives:
/// grey is repeated, palettes are looked up, alpha is dropped (not blended), CMYK is inverted, 16
/// bits are cut to 8. EXIF orientation is not applied. Bounded: a truncated or damaged file, or one
/// of more than `max_pixels`, comes back as `error`; nothing larger than the pixels themselves is
/// allocated.
DecodeResult decode_image(std::string_view bytes, std::int64_t max_pixels = max_image_pixels);

/// Pillow's `Image.resize` with antialiasing: separable, support scaled by the reduction,
/// coefficients and both passes in its 8-bit fixed point, so equal to it in every byte.
Image resize(const Image& image, int width, int height, Resample filter);

/// torchvision's `Resize(size)` (shorter side to `size`, longer side int(size * long / short)) and
/// `CenterCrop(size)` (offset round half to even of the difference / 2): (size, size, 3).
Image resize_and_centre_crop(const Image& image, int size, Resample filter);

/// Pixels to (height, width, 3) f32 in [-1, 1]: x / 127.5 - 1.
void to_unit_range(const Image& image, float* out);

}  // namespace strata
