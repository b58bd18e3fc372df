#include "data/image.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.hpp"

namespace strata {

namespace {

double bilinear(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

/// Keys 1981 with a = -1/2.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) {
  return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

struct Kernel {
  double (*weight)(double);
  double support;
};

Kernel kernel_of(Resample filter) {
  switch (filter) {
    case Resample::bilinear:
      return {bilinear, 1.0};
    case Resample::bicubic:
      return {bicubic, 2.0};
    case Resample::lanczos:
      return {lanczos, 3.0};
  }
  return {bilinear, 1.0};
}

constexpr int precision_bits = 32 - 8 - 2;

/// For each output position: the first input position, and fixed-point weights.
struct Taps {
  int width = 0;  // weights per output position
  std::vector<int> first, count;
  std::vector<std::int32_t> weights;
};

Taps make_taps(int in, int out, Resample filter) {
  const Kernel kernel = kernel_of(filter);
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = kernel.support * filter_scale;
  const double inverse = 1.0 / filter_scale;
  Taps taps;
  taps.width = static_cast<int>(std::ceil(support)) * 2 + 1;
  taps.first.resize(out);
  taps.count.resize(out);
  taps.weights.resize(static_cast<std::size_t>(out) * taps.width);
  std::vector<double> weights(taps.width);
  // As Pillow rounds: towards zero, after adding. NOLINTNEXTLINE(bugprone-incorrect-roundings)
  const auto rounded = [](double x) { return static_cast<int>(x + 0.5); };
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale;
    const int first = std::max(rounded(centre - support), 0);
    const int count = std::min(rounded(centre + support), in) - first;
    double sum = 0.0;
    for (int k = 0; k < count; ++k) {
      weights[k] = kernel.weight((k + first - centre + 0.5) * inverse);
      sum += weights[k];
    }
    for (int k = 0; k < count; ++k) {
      const double fixed = (sum != 0.0 ? weights[k] / sum : weights[k]) * (1 << precision_bits);
      taps.weights[static_cast<std::size_t>(i) * taps.width + k] =
          static_cast<std::int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    taps.first[i] = first;
    taps.count[i] = count;
  }
  return taps;
}

std::uint8_t to_byte(std::int32_t fixed) {
  return static_cast<std::uint8_t>(std::clamp(fixed >> precision_bits, 0, 255));
}

constexpr std::int32_t half = 1 << (precision_bits - 1);

Image resize_columns(const Image& in, int width, Resample filter) {
  const Taps taps = make_taps(in.width, width, filter);
  Image out{width, in.height, {}};
  out.rgb.resize(std::size_t(width) * in.height * 3);
  for (int y = 0; y < in.height; ++y) {
    const std::uint8_t* row = &in.rgb[std::size_t(y) * in.width * 3];
    std::uint8_t* to = &out.rgb[std::size_t(y) * width * 3];
    for (int x = 0; x < width; ++x) {
      const std::int32_t* w = &taps.weights[std::size_t(x) * taps.width];
      const std::uint8_t* from = row + 3 * taps.first[x];
      std::int32_t r = half, g = half, b = half;
      for (int k = 0; k < taps.count[x]; ++k) {
        r += from[3 * k] * w[k];
        g += from[3 * k + 1] * w[k];
        b += from[3 * k + 2] * w[k];
      }
      to[3 * x] = to_byte(r);
      to[3 * x + 1] = to_byte(g);
      to[3 * x + 2] = to_byte(b);
    }
  }
  return out;
}

Image resize_rows(const Image& in, int height, Resample filter) {
  const Taps taps = make_taps(in.height, height, filter);
  const std::size_t stride = std::size_t(in.width) * 3;
  Image out{in.width, height, {}};
  out.rgb.resize(stride * height);
  std::vector<std::int32_t> sums(stride);
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), half);
    for (int k = 0; k < taps.count[y]; ++k) {
      const std::int32_t w = taps.weights[std::size_t(y) * taps.width + k];
      const std::uint8_t* row = &in.rgb[(taps.first[y] + k) * stride];
      for (std::size_t i = 0; i < stride; ++i) sums[i] += row[i] * w;
    }
    for (std::size_t i = 0; i < stride; ++i) out.rgb[y * stride + i] = to_byte(sums[i]);
  }
  return out;
}

/// The intermediate picture is rounded to bytes, so the order of the passes shows in the result.
/// Pillow 13 begins with the rows when they lose more than twice as much as the columns (found by
/// comparing both orders with it on random sizes); earlier versions always begin with the columns.
bool rows_come_first(const Image& image, int width, int height) {
  const std::int64_t lost_columns = image.width - width, lost_rows = image.height - height;
  return lost_rows > 0 && lost_rows > 2 * lost_columns;
}

/// Python's round(): half to even.
int half_rounded(int difference) {
  return static_cast<int>(std::nearbyint(difference / 2.0));
}

}  // namespace

Resample parse_resample(const std::string& name) {
  if (name == "bilinear") return Resample::bilinear;
  if (name == "bicubic") return Resample::bicubic;
  if (name == "lanczos") return Resample::lanczos;
  fail(Exit::usage, "--resample {}: bilinear, bicubic or lanczos", name);
}

Image resize(const Image& image, int width, int height, Resample filter) {
  STRATA_CHECK(width > 0 && height > 0 && image.width > 0 && image.height > 0);
  if (width == image.width && height == image.height) return image;
  if (width == image.width) return resize_rows(image, height, filter);
  if (height == image.height) return resize_columns(image, width, filter);
  if (rows_come_first(image, width, height))
    return resize_columns(resize_rows(image, height, filter), width, filter);
  return resize_rows(resize_columns(image, width, filter), height, filter);
}

Image resize_and_centre_crop(const Image& image, int size, Resample filter) {
  const std::int64_t shorter = std::min(image.width, image.height);
  const std::int64_t longer = std::max(image.width, image.height);
  const std::int64_t scaled = size * longer / shorter;
  if (scaled * size > max_image_pixels * 4)
    fail(Exit::data, "{} x {} pixels resized to a shorter side of {} are too many", image.width,
         image.height, size);
  const bool wide = image.width > image.height;
  const Image whole = resize(image, wide ? static_cast<int>(scaled) : size,
                             wide ? size : static_cast<int>(scaled), filter);
  const int left = half_rounded(whole.width - size), top = half_rounded(whole.height - size);
  Image out{size, size, {}};
  out.rgb.reserve(std::size_t(size) * size * 3);
  for (int y = 0; y < size; ++y) {
    const auto* row = &whole.rgb[(std::size_t(top + y) * whole.width + left) * 3];
    out.rgb.insert(out.rgb.end(), row, row + std::size_t(size) * 3);
  }
  return out;
}

void to_unit_range(const Image& image, float* out) {
  for (std::size_t i = 0; i < image.rgb.size(); ++i) out[i] = image.rgb[i] / 127.5f - 1.0f;
}

}  // namespace strata
