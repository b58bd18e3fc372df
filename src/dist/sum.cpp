#include "dist/sum.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace strata {

namespace {

constexpr std::int64_t block = 2048;  // all parts of a block stay in the second-level cache

void widen(float* to, DType dtype, const std::byte* from, std::int64_t n) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, n * sizeof(float));
    return;
  }
  std::array<bf16, block> values;
  std::memcpy(values.data(), from, n * sizeof(bf16));
  for (std::int64_t i = 0; i < n; ++i) to[i] = to_float(values[i]);
}

void store(Tensor out, std::int64_t at, const float* from, std::int64_t n) {
  if (out.dtype == DType::f32) {
    std::memcpy(out.as<float>() + at, from, n * sizeof(float));
    return;
  }
  bf16* to = out.as<bf16>() + at;
  for (std::int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i]);
}

}  // namespace

void sum_parts(Tensor out, DType dtype, std::span<const std::byte* const> parts) {
  const std::int64_t n = out.numel(), count = static_cast<std::int64_t>(parts.size());
  if (count == 1 && out.dtype == dtype) {
    if (n > 0) std::memcpy(out.data, parts[0], out.bytes());
    return;
  }
  std::vector<float> rows(count * block);
  for (std::int64_t at = 0; at < n; at += block) {
    const std::int64_t length = std::min(block, n - at);
    for (std::int64_t p = 0; p < count; ++p)
      widen(&rows[p * block], dtype, parts[p] + at * size_of(dtype), length);
    for (std::int64_t step = 1; step < count; step *= 2)
      for (std::int64_t p = 0; p + step < count; p += 2 * step) {
        float* to = &rows[p * block];
        const float* from = &rows[(p + step) * block];
        for (std::int64_t i = 0; i < length; ++i) to[i] += from[i];
      }
    store(out, at, rows.data(), length);
  }
}

void check_reduce_scatter(const Communicator& comm, Tensor shard, Tensor full, std::int64_t part) {
  STRATA_CHECK(full.dtype == DType::f32 || full.dtype == DType::bf16, "{}", name_of(full.dtype));
  STRATA_CHECK(shard.dtype == DType::f32 || shard.dtype == full.dtype, "{}", name_of(shard.dtype));
  STRATA_CHECK(full.device == host_device && shard.device == host_device);
  STRATA_CHECK(part * comm.size() >= full.numel(), "{} parts of {} for {} elements", comm.size(),
               part, full.numel());
  const auto mine = Communicator::part_of(full.numel(), part, comm.rank());
  STRATA_CHECK(shard.numel() == mine.size(), "shard of {} for a part of {}", shard.numel(),
               mine.size());
}

}  // namespace strata
