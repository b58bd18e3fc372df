// Image formats. The C libraries leave by longjmp; the functions they may leave through hold
// nothing that has a destructor.

// libjpeg's headers need stdio first.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on
#include <png.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <csetjmp>
#include <cstring>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "data/image.hpp"

namespace strata {

namespace {

using Pixels = std::vector<std::uint8_t>;

DecodeResult refuse(std::string reason) {
  return {{}, std::move(reason)};
}

/// Empty when (width, height) is acceptable.
std::string size_error(std::uint64_t width, std::uint64_t height, std::int64_t max_pixels) {
  if (width == 0 || height == 0) return "no pixels";
  if (width > (1u << 30) || height > (1u << 30) ||
      width * height > static_cast<std::uint64_t>(max_pixels))
    return fmt::format("{} x {} pixels are more than {}", width, height, max_pixels);
  return {};
}

// --- JPEG ---------------------------------------------------------------------------------------

struct Jpeg {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf leave{};
  char message[JMSG_LENGTH_MAX]{};
  bool truncated = false;
};

[[noreturn]] void jpeg_leave(j_common_ptr info) {
  auto* jpeg = static_cast<Jpeg*>(info->client_data);
  (*info->err->format_message)(info, jpeg->message);
  std::longjmp(jpeg->leave, 1);
}

/// libjpeg pads a file that ends early with grey; Pillow refuses it, and so do we.
void jpeg_warning(j_common_ptr info, int level) {
  auto* jpeg = static_cast<Jpeg*>(info->client_data);
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) jpeg->truncated = true;
}

/// A few bytes can ask for thousands of passes over a large picture.
void jpeg_limit_scans(j_common_ptr info) {
  constexpr int most_scans = 500;
  auto* jpeg = static_cast<Jpeg*>(info->client_data);
  if (jpeg->info.input_scan_number > most_scans) {
    std::snprintf(jpeg->message, sizeof jpeg->message, "more than %d scans", most_scans);
    std::longjmp(jpeg->leave, 1);
  }
}

bool jpeg_open(Jpeg& jpeg, const std::uint8_t* data, std::size_t size) {
  jpeg.info.err = jpeg_std_error(&jpeg.errors);
  jpeg.errors.error_exit = jpeg_leave;
  jpeg.errors.emit_message = jpeg_warning;
  jpeg.info.client_data = &jpeg;
  if (setjmp(jpeg.leave)) return false;
  jpeg_create_decompress(&jpeg.info);
  jpeg.progress.progress_monitor = jpeg_limit_scans;
  jpeg.info.progress = &jpeg.progress;
  jpeg_mem_src(&jpeg.info, data, size);
  jpeg_read_header(&jpeg.info, TRUE);
  return true;
}

/// rows: (height, width, components), components as jpeg_start says.
bool jpeg_start(Jpeg& jpeg) {
  if (setjmp(jpeg.leave)) return false;
  jpeg.info.out_color_space = jpeg.info.num_components == 1   ? JCS_GRAYSCALE
                              : jpeg.info.num_components == 4 ? JCS_CMYK
                                                              : JCS_RGB;
  jpeg.info.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&jpeg.info);
  return true;
}

bool jpeg_rows(Jpeg& jpeg, std::uint8_t* rows) {
  if (setjmp(jpeg.leave)) return false;
  const std::size_t stride = std::size_t{jpeg.info.output_width} * jpeg.info.output_components;
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    JSAMPROW row = rows + jpeg.info.output_scanline * stride;
    jpeg_read_scanlines(&jpeg.info, &row, 1);
  }
  return true;
}

void jpeg_close(Jpeg* jpeg) {
  if (!setjmp(jpeg->leave)) jpeg_destroy_decompress(&jpeg->info);
  delete jpeg;
}

/// Adobe's inverted CMYK to RGB: with K' = 255 - K, colour = K' - C K' / 255 rounded.
void cmyk_to_rgb(const Pixels& raw, Pixels& rgb) {
  for (std::size_t i = 0; i < raw.size() / 4; ++i) {
    const int key = raw[4 * i + 3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - raw[4 * i + c]) * key + 128;
      rgb[3 * i + c] = static_cast<std::uint8_t>(key - ((product + (product >> 8)) >> 8));
    }
  }
}

void grey_to_rgb(const Pixels& grey, Pixels& rgb) {
  for (std::size_t i = 0; i < grey.size(); ++i) std::memset(&rgb[3 * i], grey[i], 3);
}

DecodeResult decode_jpeg(std::string_view bytes, std::int64_t max_pixels) {
  std::unique_ptr<Jpeg, void (*)(Jpeg*)> jpeg(new Jpeg, jpeg_close);
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  if (!jpeg_open(*jpeg, data, bytes.size())) return refuse(jpeg->message);
  const auto& info = jpeg->info;
  if (auto error = size_error(info.image_width, info.image_height, max_pixels); !error.empty())
    return refuse(error);
  const int components = info.num_components;
  if (components != 1 && components != 3 && components != 4)
    return refuse(fmt::format("JPEG of {} components", components));
  if (!jpeg_start(*jpeg)) return refuse(jpeg->message);
  Image image{static_cast<int>(info.output_width), static_cast<int>(info.output_height), {}};
  const std::size_t pixels = std::size_t{info.output_width} * info.output_height;
  Pixels rows(pixels * info.output_components);
  if (!jpeg_rows(*jpeg, rows.data())) return refuse(jpeg->message);
  if (jpeg->truncated) return refuse("the JPEG file is truncated");
  if (components == 3) {
    image.rgb = std::move(rows);
  } else {
    image.rgb.resize(pixels * 3);
    components == 1 ? grey_to_rgb(rows, image.rgb) : cmyk_to_rgb(rows, image.rgb);
  }
  return {std::move(image), {}};
}

// --- PNG ----------------------------------------------------------------------------------------

struct Png {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const char* data = nullptr;
  std::size_t size = 0, at = 0;
  char message[128]{};
  std::uint32_t width = 0, height = 0;
  int depth = 0, colour = 0;
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void png_leave(png_structp png, png_const_charp text) {
  auto* self = static_cast<Png*>(png_get_error_ptr(png));
  std::snprintf(self->message, sizeof self->message, "%s", text);
  png_longjmp(png, 1);
}

void png_pull(png_structp png, png_bytep to, png_size_t count) {
  auto* self = static_cast<Png*>(png_get_io_ptr(png));
  if (count > self->size - self->at) png_error(png, "the PNG file is truncated");
  std::memcpy(to, self->data + self->at, count);
  self->at += count;
}

bool png_open(Png& self) {
  self.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &self, png_leave,
                                    [](png_structp, png_const_charp) {});
  if (!self.png) return false;
  self.info = png_create_info_struct(self.png);
  if (!self.info) return false;
  if (setjmp(png_jmpbuf(self.png))) return false;
  png_set_read_fn(self.png, &self, png_pull);
  // Only the pixels and the palette matter: texts, profiles and the like are not even inflated.
  png_set_keep_unknown_chunks(self.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_chunk_cache_max(self.png, 64);
  png_set_chunk_malloc_max(self.png, 8 << 20);
  png_set_user_limits(self.png, 1 << 30, 1 << 30);
  png_read_info(self.png, self.info);
  png_get_IHDR(self.png, self.info, &self.width, &self.height, &self.depth, &self.colour, nullptr,
               nullptr, nullptr);
  return true;
}

/// rows (height, width, 3), or (height, width, 2) for 16-bit grey.
bool png_rows(Png& self, std::uint8_t* rows, std::size_t stride) {
  if (setjmp(png_jmpbuf(self.png))) return false;
  const bool deep_grey = self.colour == PNG_COLOR_TYPE_GRAY && self.depth == 16;
  if (!deep_grey) {
    png_set_strip_16(self.png);
    png_set_expand(self.png);
    png_set_strip_alpha(self.png);
    png_set_gray_to_rgb(self.png);
  }
  const int passes = png_set_interlace_handling(self.png);
  png_read_update_info(self.png, self.info);
  if (png_get_rowbytes(self.png, self.info) != stride) png_error(self.png, "unforeseen row size");
  for (int pass = 0; pass < passes; ++pass)
    for (std::uint32_t y = 0; y < self.height; ++y)
      png_read_row(self.png, rows + y * stride, nullptr);
  return true;
}

DecodeResult decode_png(std::string_view bytes, std::int64_t max_pixels) {
  Png png;
  png.data = bytes.data();
  png.size = bytes.size();
  if (!png_open(png)) return refuse(png.message[0] ? png.message : "no memory");
  if (auto error = size_error(png.width, png.height, max_pixels); !error.empty())
    return refuse(error);
  const bool deep_grey = png.colour == PNG_COLOR_TYPE_GRAY && png.depth == 16;
  const std::size_t stride = std::size_t{png.width} * (deep_grey ? 2 : 3);
  Pixels rows(stride * png.height);
  if (!png_rows(png, rows.data(), stride)) return refuse(png.message);
  Image image{static_cast<int>(png.width), static_cast<int>(png.height), std::move(rows)};
  if (deep_grey) {
    const Pixels deep = std::exchange(image.rgb, Pixels(stride / 2 * 3 * png.height));
    for (std::size_t i = 0; i < deep.size() / 2; ++i) {
      // Pillow clips 16-bit grey to 255 instead of scaling it.
      const std::uint8_t grey = deep[2 * i] ? 255 : deep[2 * i + 1];
      std::memset(&image.rgb[3 * i], grey, 3);
    }
  }
  return {std::move(image), {}};
}

// --- WebP ---------------------------------------------------------------------------------------

DecodeResult decode_webp(std::string_view bytes, std::int64_t max_pixels) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data, bytes.size(), &features) != VP8_STATUS_OK)
    return refuse("not a WebP header");
  if (auto error = size_error(features.width, features.height, max_pixels); !error.empty())
    return refuse(error);
  // The animation decoder also reads stills; of an animation the first frame counts.
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options)) return refuse("libwebp of another version");
  options.color_mode = MODE_RGBA;
  const WebPData source{data, bytes.size()};
  std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
      WebPAnimDecoderNew(&source, &options), WebPAnimDecoderDelete);
  if (!decoder) return refuse("the WebP file is damaged or truncated");
  std::uint8_t* rgba = nullptr;
  int timestamp = 0;
  if (!WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp))
    return refuse("the WebP picture is damaged or truncated");
  Image image{features.width, features.height, {}};
  const std::size_t pixels = std::size_t(features.width) * features.height;
  image.rgb.resize(pixels * 3);
  for (std::size_t i = 0; i < pixels; ++i) std::memcpy(&image.rgb[3 * i], rgba + 4 * i, 3);
  return {std::move(image), {}};
}

}  // namespace

DecodeResult decode_image(std::string_view bytes, std::int64_t max_pixels) {
  if (bytes.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, max_pixels);
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes, max_pixels);
  if (bytes.starts_with("RIFF") && bytes.size() >= 12 && bytes.substr(8, 4) == "WEBP")
    return decode_webp(bytes, max_pixels);
  return refuse(bytes.empty() ? "empty file" : "neither JPEG, PNG nor WebP");
}

}  // namespace strata
