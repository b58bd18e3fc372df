// Table look-ups and sinusoids.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/portable/sinusoid.hpp"

namespace strata::host {

void HostBackend::embedding(Exec& exec, Tensor y, Tensor table, Tensor ids) {
  const std::int64_t vocabulary = table.shape[0], count = ids.numel();
  const std::size_t bytes = static_cast<std::size_t>(table.shape[1]) * size_of(table.dtype);
  const auto* id = ids.as<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i)
    if (id[i] < 0 || id[i] >= vocabulary)
      fail(Exit::data, "token id {} at position {} is outside the table of {} rows", id[i], i,
           vocabulary);
  for_rows(exec, count, table.shape[1], [=](std::int64_t i) {
    std::memcpy(y.data + static_cast<std::size_t>(i) * bytes,
                table.data + static_cast<std::size_t>(id[i]) * bytes, bytes);
  });
}

void HostBackend::timestep_embedding(Exec& exec, Tensor y, Tensor t, bool flip_sin_to_cos,
                                     float freq_shift) {
  const std::int64_t half = y.shape[1] / 2;
  const float* time = t.as<float>();
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<T> to{y.as<T>(), 2 * half};
    for_rows(exec, y.shape[0], 64 * half, [=](std::int64_t row) {
      T* sines = to[row] + (flip_sin_to_cos ? half : 0);
      T* cosines = to[row] + (flip_sin_to_cos ? 0 : half);
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = time[row] * portable::timestep_frequency(i, half, freq_shift);
        sines[i] = from_float<T>(std::sin(angle));
        cosines[i] = from_float<T>(std::cos(angle));
      }
    });
  });
}

void HostBackend::rope(Exec& exec, Tensor x, Tensor positions, Tensor inv_freq) {
  const std::int64_t tokens = x.shape[0], heads = x.shape[1], half = x.shape[2] / 2;
  if (tokens == 0) return;
  const auto* position = positions.as<std::int64_t>();
  const float* frequency = inv_freq.as<float>();
  // The turns of every position up to the last, or of every token where there are fewer of those.
  const std::int64_t count = std::min(tokens, *std::max_element(position, position + tokens) + 1);
  const bool by_token = count == tokens;
  const ArenaScope scope(exec.arena);
  const Rows<float> turns{exec.empty(DType::f32, {count, 2 * half}).as<float>(), 2 * half};
  for_rows(exec, count, 64 * half, [=](std::int64_t row) {
    const auto at = static_cast<float>(by_token ? position[row] : row);
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = at * frequency[i];
      turns[row][i] = std::cos(angle);
      turns[row][half + i] = std::sin(angle);
    }
  });
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<T> rows{x.as<T>(), 2 * half};
    for_rows(exec, tokens, heads * 2 * half, [=](std::int64_t token) {
      const float* cosine = turns[by_token ? token : position[token]];
      const float* sine = cosine + half;
      for (std::int64_t head = 0; head < heads; ++head) {
        T* low = rows[token * heads + head];
        T* high = low + half;
        for (std::int64_t i = 0; i < half; ++i) {
          const float a = to_float(low[i]), b = to_float(high[i]);
          low[i] = from_float<T>(a * cosine[i] - b * sine[i]);
          high[i] = from_float<T>(b * cosine[i] + a * sine[i]);
        }
      }
    });
  });
}

}  // namespace strata::host
