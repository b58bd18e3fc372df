// Ops that move elements.

#include <cstring>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

namespace {

/// Copies `width` bytes of each row between pitches.
void copy_rows(Exec& exec, std::byte* to, std::int64_t to_pitch, const std::byte* from,
               std::int64_t from_pitch, std::int64_t width, std::int64_t rows) {
  for_rows(exec, rows, width, [=](std::int64_t row) {
    std::memcpy(to + row * to_pitch, from + row * from_pitch, static_cast<std::size_t>(width));
  });
}

struct Image {
  std::int64_t batch, height, width, channels;
  explicit Image(const Tensor& t)
      : batch(t.shape[0]), height(t.shape[1]), width(t.shape[2]), channels(t.shape[3]) {}
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

void HostBackend::concat(Exec& exec, Tensor y, Tensor a, Tensor b) {
  const auto size = static_cast<std::int64_t>(size_of(y.dtype));
  const std::int64_t first = a.shape[-1] * size, second = b.shape[-1] * size;
  copy_rows(exec, y.data, first + second, a.data, first, first, rows_of(y));
  copy_rows(exec, y.data + first, first + second, b.data, second, second, rows_of(y));
}

void HostBackend::split(Exec& exec, Tensor a, Tensor b, Tensor y) {
  const auto size = static_cast<std::int64_t>(size_of(y.dtype));
  const std::int64_t first = a.shape[-1] * size, second = b.shape[-1] * size;
  copy_rows(exec, a.data, first, y.data, first + second, first, rows_of(y));
  copy_rows(exec, b.data, second, y.data + first, first + second, second, rows_of(y));
}

void HostBackend::upsample_nearest(Exec& exec, Tensor y, Tensor x) {
  const Image from(x), to(y);
  const std::int64_t pixel = from.channels * static_cast<std::int64_t>(size_of(x.dtype));
  const std::byte* source = x.data;
  std::byte* target = y.data;
  for_rows(exec, to.batch * to.height, to.width * to.channels, [=](std::int64_t row) {
    const std::int64_t b = row / to.height, i = row % to.height * from.height / to.height;
    const std::byte* line = source + (b * from.height + i) * from.width * pixel;
    for (std::int64_t j = 0; j < to.width; ++j)
      std::memcpy(target + (row * to.width + j) * pixel, line + j * from.width / to.width * pixel,
                  static_cast<std::size_t>(pixel));
  });
}

void HostBackend::upsample_nearest_backward(Exec& exec, Tensor dx, Tensor dy) {
  constexpr std::int64_t piece = 64;
  const Image small(dx), large(dy);
  with_type(dx.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<T> to{dx.as<T>(), small.channels}, from{dy.as<T>(), small.channels};
    const auto pixel = [=](std::int64_t b, std::int64_t i, std::int64_t j) {
      const std::int64_t top = ceil_div(i * large.height, small.height);
      const std::int64_t bottom = ceil_div((i + 1) * large.height, small.height);
      const std::int64_t left = ceil_div(j * large.width, small.width);
      const std::int64_t right = ceil_div((j + 1) * large.width, small.width);
      T* target = to[(b * small.height + i) * small.width + j];
      for (std::int64_t begin = 0; begin < small.channels; begin += piece) {
        const std::int64_t count = std::min(piece, small.channels - begin);
        float sum[piece] = {};
        for (std::int64_t p = top; p < bottom; ++p)
          for (std::int64_t q = left; q < right; ++q) {
            const T* row = from[(b * large.height + p) * large.width + q] + begin;
            for (std::int64_t c = 0; c < count; ++c) sum[c] += to_float(row[c]);
          }
        store_row(target + begin, sum, count);
      }
    };
    for_rows(exec, small.batch * small.height, large.width * large.channels, [=](std::int64_t row) {
      for (std::int64_t j = 0; j < small.width; ++j)
        pixel(row / small.height, row % small.height, j);
    });
  });
}

namespace {

/// y[i * channels + c] = x[c * pixels + i] for each sample, or the reverse.
template <class To, class From>
void to_nhwc(Exec& exec, To* y, const From* x, std::int64_t batch, std::int64_t pixels,
             std::int64_t channels) {
  for_rows(exec, batch, pixels * channels, [=](std::int64_t b) {
    const std::int64_t begin = b * pixels * channels;
    for (std::int64_t i = 0; i < pixels; ++i)
      for (std::int64_t c = 0; c < channels; ++c)
        y[begin + i * channels + c] = from_float<To>(to_float(x[begin + c * pixels + i]));
  });
}

template <class To, class From>
void to_nchw(Exec& exec, To* y, const From* x, std::int64_t batch, std::int64_t pixels,
             std::int64_t channels) {
  for_rows(exec, batch, pixels * channels, [=](std::int64_t b) {
    const std::int64_t begin = b * pixels * channels;
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t i = 0; i < pixels; ++i)
        y[begin + c * pixels + i] = from_float<To>(to_float(x[begin + i * channels + c]));
  });
}

template <class F>
void with_types(const Tensor& y, const Tensor& x, F f) {
  with_type(y.dtype, [&](auto to) {
    with_type(x.dtype, [&](auto from) { f(y.as<decltype(to)>(), x.as<decltype(from)>()); });
  });
}

}  // namespace

void HostBackend::nchw_to_nhwc(Exec& exec, Tensor y, Tensor x) {
  const Image image(y);
  with_types(y, x, [&](auto* to, const auto* from) {
    to_nhwc(exec, to, from, image.batch, image.height * image.width, image.channels);
  });
}

void HostBackend::nhwc_to_nchw(Exec& exec, Tensor y, Tensor x) {
  const Image image(x);
  with_types(y, x, [&](auto* to, const auto* from) {
    to_nchw(exec, to, from, image.batch, image.height * image.width, image.channels);
  });
}

}  // namespace strata::host
