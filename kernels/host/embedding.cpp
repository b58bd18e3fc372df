// Table look-ups and sinusoids.

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

void HostBackend::rope(Exec& exec, Tensor x, Tensor offsets, Tensor inv_freq) {
  const std::int64_t heads = x.shape[1], half = x.shape[2] / 2, batch = offsets.shape[0] - 1;
  const auto* at = offsets.as<std::int64_t>();
  const float* frequency = inv_freq.as<float>();
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < batch; ++b) longest = std::max(longest, at[b + 1] - at[b]);
  if (longest == 0) return;
  const ArenaScope scope(exec.arena);
  const Rows<float> turns{exec.empty(DType::f32, {longest, 2 * half}).as<float>(), 2 * half};
  auto* position = exec.empty(DType::i64, {x.shape[0]}).as<std::int64_t>();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = at[b]; i < at[b + 1]; ++i) position[i] = i - at[b];
  for_rows(exec, longest, 64 * half, [=](std::int64_t row) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(row) * frequency[i];
      turns[row][i] = std::cos(angle);
      turns[row][half + i] = std::sin(angle);
    }
  });
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const Rows<T> rows{x.as<T>(), 2 * half};
    for_rows(exec, x.shape[0], heads * 2 * half, [=](std::int64_t token) {
      const float* cosine = turns[position[token]];
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
