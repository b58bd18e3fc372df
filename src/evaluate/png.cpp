#include "evaluate/png.hpp"

#include <png.h>

#include <csetjmp>
#include <cstring>

#include "core/error.hpp"

namespace strata {

namespace {

constexpr std::uint32_t max_side = 16384;
constexpr std::size_t max_text_bytes = std::size_t{1} << 22;

bool is_ascii(const std::string& text) {
  for (unsigned char c : text)
    if (c >= 0x80 || (c < 0x20 && c != '\n')) return false;
  return true;
}

// libpng reports through longjmp; everything with a destructor therefore lives in these structs,
// outside the functions that it may jump out of.
struct WriteState {
  std::string bytes;
  std::vector<png_text> chunks;
  std::string error;
};

void on_write_error(png_structp png, png_const_charp text) {
  static_cast<WriteState*>(png_get_error_ptr(png))->error = text;
  png_longjmp(png, 1);
}
void on_warning(png_structp, png_const_charp) {}
void append_bytes(png_structp png, png_bytep data, png_size_t size) {
  static_cast<WriteState*>(png_get_io_ptr(png))
      ->bytes.append(reinterpret_cast<const char*>(data), size);
}
void flush_nothing(png_structp) {}

struct ReadState {
  const std::string* bytes = nullptr;
  std::size_t at = 0;
  std::string error;
  std::vector<png_bytep> rows;
  DecodedPng decoded;
};

void on_read_error(png_structp png, png_const_charp text) {
  static_cast<ReadState*>(png_get_error_ptr(png))->error = text;
  png_longjmp(png, 1);
}
void take_bytes(png_structp png, png_bytep to, png_size_t size) {
  auto& state = *static_cast<ReadState*>(png_get_io_ptr(png));
  if (size > state.bytes->size() - state.at) png_error(png, "the file ends too early");
  std::memcpy(to, state.bytes->data() + state.at, size);
  state.at += size;
}

std::vector<png_text> text_chunks(const PngText& text) {
  std::vector<png_text> chunks;
  for (const auto& [key, value] : text) {
    STRATA_CHECK(!key.empty() && key.size() < 80 && is_ascii(key), "PNG text key {}", key);
    png_text chunk{};
    chunk.compression = is_ascii(value) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunk.key = const_cast<char*>(key.c_str());
    chunk.text = const_cast<char*>(value.c_str());
    chunk.text_length = chunk.compression == PNG_TEXT_COMPRESSION_NONE ? value.size() : 0;
    chunk.itxt_length = chunk.compression == PNG_TEXT_COMPRESSION_NONE ? 0 : value.size();
    chunks.push_back(chunk);
  }
  return chunks;
}

bool write_all(png_structp png, png_infop info, const Image& image, WriteState& state) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_write_fn(png, &state, append_bytes, flush_nothing);
  png_set_compression_level(png, 6);
  png_set_filter(png, 0, PNG_ALL_FILTERS);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_text(png, info, state.chunks.data(), static_cast<int>(state.chunks.size()));
  png_write_info(png, info);
  for (int y = 0; y < image.height; ++y)
    png_write_row(png, image.rgb.data() + std::size_t(y) * image.width * 3);
  png_write_end(png, info);
  return true;
}

void take_text(png_structp png, png_infop info, PngText& text) {
  png_textp chunks = nullptr;
  const int count = png_get_text(png, info, &chunks, nullptr);
  for (int i = 0; i < count; ++i) {
    const std::size_t size = std::max(chunks[i].text_length, chunks[i].itxt_length);
    text.emplace_back(chunks[i].key, std::string(chunks[i].text, size));
  }
}

bool read_all(png_structp png, png_infop info, ReadState& state) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_read_fn(png, &state, take_bytes);
  // A damaged text is damage too: libpng would leave it out, and the image would pass for
  // another's.
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_user_limits(png, max_side, max_side);
  png_set_chunk_malloc_max(png, max_text_bytes);
  png_read_info(png, info);
  png_set_expand(png);
  png_set_scale_16(png);
  png_set_gray_to_rgb(png);
  png_color_16 black{};
  png_set_background(png, &black, PNG_BACKGROUND_GAMMA_SCREEN, 0, 1.0);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  Image& image = state.decoded.image;
  image.width = static_cast<int>(png_get_image_width(png, info));
  image.height = static_cast<int>(png_get_image_height(png, info));
  if (png_get_rowbytes(png, info) != std::size_t(image.width) * 3)
    png_error(png, "unusual pixel format");
  image.rgb.resize(std::size_t(image.width) * image.height * 3);
  for (int y = 0; y < image.height; ++y)
    state.rows.push_back(image.rgb.data() + std::size_t(y) * image.width * 3);
  png_read_image(png, state.rows.data());
  png_read_end(png, info);
  take_text(png, info, state.decoded.text);
  return true;
}

}  // namespace

std::string encode_png(const Image& image, const PngText& text) {
  STRATA_CHECK(image.width > 0 && image.height > 0 &&
                   image.rgb.size() == std::size_t(image.width) * image.height * 3,
               "{}x{} with {} bytes", image.width, image.height, image.rgb.size());
  WriteState state;
  state.chunks = text_chunks(text);
  png_structp png =
      png_create_write_struct(PNG_LIBPNG_VER_STRING, &state, on_write_error, on_warning);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  const bool done = info && write_all(png, info, image, state);
  png_destroy_write_struct(&png, &info);
  if (!done) fail(Exit::internal, "PNG encoder: {}", state.error);
  return std::move(state.bytes);
}

DecodedPng decode_png(const std::string& bytes, const std::string& name) {
  if (bytes.size() < 8 || png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0, 8) != 0)
    fail(Exit::data, "{}: not a PNG file", name);
  ReadState state;
  state.bytes = &bytes;
  png_structp png =
      png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, on_read_error, on_warning);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  const bool done = info && read_all(png, info, state);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!done) fail(Exit::data, "{}: PNG: {} (offset {})", name, state.error, state.at);
  return std::move(state.decoded);
}

}  // namespace strata
