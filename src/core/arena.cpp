#include "core/arena.hpp"

#include <algorithm>
#include <cstring>

#include "core/activity.hpp"

namespace strata {

Buffer Buffer::zeros(DType dtype, Shape shape) {
  Buffer buffer(dtype, shape);
  std::memset(buffer.tensor().data, 0, buffer.tensor().bytes());
  return buffer;
}

Tensor Arena::empty(DType dtype, Shape shape) {
  activity::beat();  // every op that a model computes comes by here
  Tensor tensor{nullptr, dtype, device_, shape};
  const std::size_t bytes = std::max<std::size_t>((tensor.bytes() + 63) / 64 * 64, 64);
  // A chunk that is too small for this request is skipped until the next release.
  while (top_.chunk < chunks_.size() &&
         top_.offset + bytes > chunks_[top_.chunk].tensor().bytes()) {
    ++top_.chunk;
    top_.offset = 0;
  }
  if (top_.chunk == chunks_.size()) {
    const auto size = static_cast<std::int64_t>(std::max(bytes, chunk_bytes_));
    chunks_.emplace_back(DType::u8, Shape{size}, device_);
  }
  tensor.data = chunks_[top_.chunk].tensor().data + top_.offset;
  top_.offset += bytes;
  peak_ = std::max(peak_, used_bytes());
  return tensor;
}

void Arena::release(Mark to) {
  top_ = to;
}

std::size_t Arena::held_bytes() const {
  std::size_t held = 0;
  for (const Buffer& chunk : chunks_) held += chunk.tensor().bytes();
  return held;
}

std::size_t Arena::used_bytes() const {
  std::size_t used = top_.offset;
  for (std::size_t i = 0; i < top_.chunk; ++i) used += chunks_[i].tensor().bytes();
  return used;
}

}  // namespace strata
