// JPEG, PNG and WebP as data, and PNG with texts as our own images have them.

#include "data/image.hpp"

#include "evaluate/png.hpp"
#include "fuzz.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  constexpr std::int64_t most_pixels = 1 << 16;
  const DecodeResult result = decode_image(input, most_pixels);
  const Image& image = result.image;
  if (result && image.rgb.size() != std::size_t(image.width) * image.height * 3) std::abort();
  // decode_png's own bound is 16384 a side: inputs that ask for much are left to decode_image.
  if (result) fuzz::reads([&] { decode_png(std::string(input), "fuzz"); });
}
