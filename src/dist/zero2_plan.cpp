#include "dist/zero2_plan.hpp"

#include <algorithm>
#include <bit>

namespace strata {

bool adds_in_place(const Zero2Options& options, int ranks) {
  return ranks == 1 && options.wire == DType::f32 && options.reduction == Reduction::ordered;
}

int slots_for(const Sharding& sharding, const Zero2Options& options, int ranks) {
  if (adds_in_place(options, ranks)) return 0;
  return std::min<int>(most_in_flight, static_cast<int>(sharding.buckets().size()));
}

std::int64_t incoming_elements(const Sharding& sharding, const Zero2Options& options, int ranks) {
  std::int64_t largest_part = 0;
  if (!adds_in_place(options, ranks))
    for (const Bucket& b : sharding.buckets())
      largest_part = std::max(largest_part, b.mine.flat.size());
  return largest_part;
}

int levels_for(Reduction reduction, int microbatches) {
  return reduction == Reduction::tree ? std::bit_width(static_cast<unsigned>(microbatches)) : 1;
}

std::int64_t bucket_elements(const Zero2Options& options) {
  return std::max<std::int64_t>(
      1, options.bucket_bytes / static_cast<std::int64_t>(size_of(options.compute)));
}

Zero2Memory memory_of(const Sharding& sharding, const ParameterTable& table,
                      const Zero2Options& options, int ranks, int levels) {
  const auto f32 = static_cast<std::int64_t>(sizeof(float));
  Zero2Memory memory;
  memory.parameters = table.numel() * static_cast<std::int64_t>(size_of(options.compute));
  memory.gradient_shard = levels * sharding.local_numel() * f32;
  memory.optimizer_state = 3 * sharding.local_numel() * f32;
  memory.ema = options.ema ? sharding.local_numel() * f32 : 0;
  memory.bucket_buffers = (slots_for(sharding, options, ranks) * sharding.largest_bucket() +
                           incoming_elements(sharding, options, ranks)) *
                          f32;
  if (options.wire != DType::f32)
    memory.bucket_buffers +=
        sharding.largest_bucket() * static_cast<std::int64_t>(size_of(options.wire));
  return memory;
}

}  // namespace strata
