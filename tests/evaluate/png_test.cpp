#include "evaluate/png.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace strata {
namespace {

Image gradient(int width, int height) {
  Image image{width, height, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int value : {x * 7, y * 11, x * y})
        image.rgb.push_back(static_cast<std::uint8_t>(value));
  return image;
}

TEST(Png, KeepsPixelsAndText) {
  const Image image = gradient(37, 21);
  const PngText text{{"prompt", "two red circles"}, {"seed", "17"}, {"accents", "caf\xC3\xA9"}};
  const std::string bytes = encode_png(image, text);
  const DecodedPng decoded = decode_png(bytes, "memory");
  EXPECT_EQ(decoded.image.width, 37);
  EXPECT_EQ(decoded.image.height, 21);
  EXPECT_EQ(decoded.image.rgb, image.rgb);
  EXPECT_EQ(decoded.text, text);
  EXPECT_EQ(encode_png(image, text), bytes);
}

TEST(Png, OtherReadersAgree) {
  const Image image = gradient(8, 5);
  const DecodeResult decoded = decode_image(encode_png(image));
  ASSERT_TRUE(decoded) << decoded.error;
  EXPECT_EQ(decoded.image.rgb, image.rgb);
}

TEST(Png, AnyDamageIsAnError) {
  const std::string bytes = encode_png(gradient(16, 16), {{"prompt", "x"}});
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(decode_png(bytes.substr(0, size), "cut"), Error) << size;
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string broken = bytes;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    try {
      decode_png(broken, "flipped");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data);
      ++refused;
    }
  }
  EXPECT_EQ(refused, static_cast<int>(bytes.size()));
}

}  // namespace
}  // namespace strata
