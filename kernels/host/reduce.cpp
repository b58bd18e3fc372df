// Sums over rows in blocks of a fixed size: the order of additions depends on shapes alone.

#include "kernels/host/dispatch.hpp"

namespace strata::host {

void add_partials(Exec& exec, float* to, const float* partial, std::int64_t blocks,
                  std::int64_t width, std::int64_t stride) {
  constexpr std::int64_t piece = 64;
  for_rows(exec, (width + piece - 1) / piece, blocks * piece, [=](std::int64_t i) {
    const std::int64_t begin = i * piece, count = std::min(piece, width - begin);
    float sum[piece] = {};
    for (std::int64_t block = 0; block < blocks; ++block)
      for (std::int64_t c = 0; c < count; ++c) sum[c] += partial[block * stride + begin + c];
    for (std::int64_t c = 0; c < count; ++c) to[begin + c] += sum[c];
  });
}

void add_column_sums(Exec& exec, Tensor to, Tensor x) {
  constexpr std::int64_t block_rows = 128;
  const std::int64_t rows = rows_of(x), width = x.shape[-1];
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  const ArenaScope scope(exec.arena);
  const Tensor partial = exec.empty(DType::f32, {blocks, width});
  with_type(x.dtype, [&](auto type) {
    const Rows<decltype(type)> source{x.as<decltype(type)>(), width};
    const Rows<float> sums{partial.as<float>(), width};
    for_rows(exec, blocks, block_rows * width, [=](std::int64_t block) {
      float* sum = sums[block];
      std::fill_n(sum, width, 0.0f);
      const std::int64_t end = std::min(rows, (block + 1) * block_rows);
      for (std::int64_t row = block * block_rows; row < end; ++row) {
        const auto* values = source[row];
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) sum[c] += to_float(values[c]);
      }
    });
  });
  add_partials(exec, to.as<float>(), partial.as<float>(), blocks, width, width);
}

}  // namespace strata::host
