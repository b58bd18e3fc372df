// Decoding, resizing and cropping against Pillow: every byte (tools/makers/goldens_image.py).

#include "data/image.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {
namespace {

const std::string folder = std::string(STRATA_SOURCE_DIR) + "/tests/golden/image/";

Image load(const std::string& name) {
  DecodeResult result = decode_image(read_file(folder + name));
  EXPECT_TRUE(result) << name << ": " << result.error;
  return std::move(result.image);
}

/// Empty when the pictures agree; otherwise where they first differ.
std::string difference(const Image& image, int width, int height, const char* expected) {
  if (image.width != width || image.height != height)
    return fmt::format("{} x {} instead of {} x {}", image.width, image.height, width, height);
  std::int64_t wrong = 0;
  int largest = 0;
  for (std::size_t i = 0; i < image.rgb.size(); ++i) {
    const int off = std::abs(image.rgb[i] - static_cast<std::uint8_t>(expected[i]));
    wrong += off != 0;
    largest = std::max(largest, off);
  }
  return wrong == 0 ? ""
                    : fmt::format("{} of {} bytes differ, by at most {}", wrong, image.rgb.size(),
                                  largest);
}

TEST(Image, EqualsPillowInEveryByte) {
  const std::string expected = read_file(folder + "expected.bin");
  std::ifstream cases(folder + "cases.txt");
  int count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    std::istringstream words(line);
    std::string what, name, filter;
    int width = 0, height = 0;
    std::size_t offset = 0;
    words >> what >> name >> width;
    Image image = load(name);
    if (what == "crop") {
      words >> filter >> offset;
      height = width;
      image = resize_and_centre_crop(image, width, parse_resample(filter));
    } else {
      words >> height;
      if (what == "resize") {
        words >> filter;
        image = resize(image, width, height, parse_resample(filter));
      }
      words >> offset;
    }
    ASSERT_FALSE(words.fail()) << line;
    ASSERT_LE(offset + std::size_t(width) * height * 3, expected.size());
    EXPECT_EQ(difference(image, width, height, expected.data() + offset), "") << line;
  }
  EXPECT_EQ(count, 107);
}

// As Pillow's convert("RGB"): a picture is taken as it is stored.
TEST(Image, ExifOrientationIsLeftAlone) {
  const std::string plain = read_file(folder + "rgb-444.jpg");
  const std::string exif(
      "\xff\xe1\x00\x22"
      "Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
      36);
  const DecodeResult turned = decode_image(plain.substr(0, 2) + exif + plain.substr(2));
  ASSERT_TRUE(turned) << turned.error;
  const Image straight = load("rgb-444.jpg");
  EXPECT_EQ(turned.image.width, straight.width);
  EXPECT_EQ(turned.image.rgb, straight.rgb);
}

TEST(Image, DamagedFilesAreReportedAndNeverThrow) {
  for (const char* name : {"rgb-420.jpg", "rgb-progressive.jpg", "cmyk.jpg", "rgb.png",
                           "interlaced.png", "palette.png", "lossy.webp", "lossless-alpha.webp"}) {
    const std::string whole = read_file(folder + name);
    for (std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{11}, std::size_t{20},
          whole.size() / 4, whole.size() / 2, whole.size() * 3 / 4}) {
      EXPECT_FALSE(decode_image(whole.substr(0, size))) << name << " cut to " << size;
    }
    // Flipped bits may or may not be noticed by the format; they must not be fatal.
    for (std::size_t i = 0; i < whole.size(); i += 7) {
      std::string flipped = whole;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
      const DecodeResult result = decode_image(flipped, 1 << 20);
      if (result) {
        EXPECT_EQ(result.image.rgb.size(),
                  std::size_t(result.image.width) * result.image.height * 3);
      }
    }
  }
}

TEST(Image, RefusesTooManyPixelsBeforeAllocating) {
  for (const char* name : {"rgb-444.jpg", "rgb.png", "lossless.webp"}) {
    const std::string bytes = read_file(folder + name);
    EXPECT_TRUE(decode_image(bytes, 61 * 47)) << name;
    const DecodeResult refused = decode_image(bytes, 61 * 47 - 1);
    EXPECT_FALSE(refused);
    EXPECT_NE(refused.error.find("61 x 47 pixels"), std::string::npos) << refused.error;
  }
  // A PNG header that claims 20,000 x 20,000 pixels in 57 bytes.
  std::string bomb = read_file(folder + "rgb.png");
  const std::string huge("\0\0\x4e\x20\0\0\x4e\x20", 8);
  bomb.replace(16, 8, huge);
  EXPECT_FALSE(decode_image(bomb));
}

TEST(Image, UnknownFormatsAreNamed) {
  EXPECT_EQ(decode_image("GIF89a....").error, "neither JPEG, PNG nor WebP");
  EXPECT_EQ(decode_image("").error, "empty file");
  EXPECT_THROW(parse_resample("nearest"), Error);
}

TEST(Image, UnitRange) {
  const Image image{2, 1, {0, 255, 51, 102, 153, 204}};
  float out[6];
  to_unit_range(image, out);
  EXPECT_EQ(out[0], -1.0f);
  EXPECT_EQ(out[1], 1.0f);
  EXPECT_NEAR(out[2], -0.6f, 1e-7f);
}

}  // namespace
}  // namespace strata
