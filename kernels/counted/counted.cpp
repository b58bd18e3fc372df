// Ops that do nothing, on memory that is counted and not there: a step that runs on it tells what
// it takes of a device before there is one. What a CUDA op itself takes of the arena is asked for,
// too, where it is large; cuDNN's own wishes are known on a device only and stand here by their
// bound.

#include <sys/mman.h>

#include <algorithm>

#include "kernels/backend.hpp"

namespace strata::counted {

namespace {

class CountedBackend final : public Backend {
 public:
  void weights_changed() override {}
  void copy(void*, const void*, std::size_t) override {}
  std::unique_ptr<Recording> record(const std::function<void()>& body) override {
    call_for_recording(body);
    return nullptr;
  }

  void linear(Exec&, Tensor, Tensor, Tensor, Tensor) override {}
  void linear(Exec&, Tensor, Tensor, const ops::PackedWeight&, Tensor, std::int64_t) override {}
  void linear_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void conv2d(Exec&, Tensor, Tensor, Tensor, Tensor, ops::Conv2dParams) override {}
  void conv2d_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                       ops::Conv2dParams) override {}
  void attention_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                          Tensor, Tensor, Tensor, ops::AttentionParams) override {}
  Buffer pack(Exec& exec, Tensor w) override { return {w.dtype, w.shape, exec.device()}; }
  void group_norm(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, int, float,
                  ops::Activation) override {}
  void group_norm_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           int, ops::Activation) override {}
  void layer_norm(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, float) override {}
  void layer_norm_backward(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {
  }
  void rms_norm(Exec&, Tensor, Tensor, Tensor, float, ops::RmsScale) override {}
  void silu(Exec&, Tensor, Tensor) override {}
  void silu_backward(Exec&, Tensor, Tensor, Tensor) override {}
  void geglu(Exec&, Tensor, Tensor) override {}
  void geglu_backward(Exec&, Tensor, Tensor, Tensor) override {}
  void activation(Exec&, Tensor, Tensor, ops::Activation) override {}
  void gated(Exec&, Tensor, Tensor, Tensor, ops::Activation) override {}
  void add(Exec&, Tensor, Tensor, Tensor) override {}
  void add_per_sample(Exec&, Tensor, Tensor, Tensor) override {}
  void add_per_sample_backward(Exec&, Tensor, Tensor) override {}
  void cast(Exec&, Tensor, Tensor) override {}
  void fill(Exec&, Tensor, float) override {}
  void scale(Exec&, Tensor, Tensor, float) override {}
  void concat(Exec&, Tensor, Tensor, Tensor) override {}
  void split(Exec&, Tensor, Tensor, Tensor) override {}
  void upsample_nearest(Exec&, Tensor, Tensor) override {}
  void upsample_nearest_backward(Exec&, Tensor, Tensor) override {}
  void nchw_to_nhwc(Exec&, Tensor, Tensor) override {}
  void nhwc_to_nchw(Exec&, Tensor, Tensor) override {}
  void attention(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                 ops::AttentionParams) override {}
  void rope(Exec&, Tensor, Tensor, Tensor) override {}
  void store_in_pages(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void attention_paged(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                       ops::AttentionParams) override {}
  void embedding(Exec&, Tensor, Tensor, Tensor) override {}
  void timestep_embedding(Exec&, Tensor, Tensor, bool, float) override {}
  void accumulate_layer(Exec&, Tensor, Tensor, bool) override {}
  void normals(Exec&, Tensor, PhiloxKey, Tensor) override {}
  void draw_posterior(Exec&, Tensor, Tensor, Tensor) override {}
  void add_noise(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void mse_loss(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, float) override {}
  void adamw(Exec&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor) override {}
  void gradient_stats(Exec&, Tensor, Tensor, Tensor, std::int64_t) override {}
  void decide_update(Exec&, Tensor, Tensor, Tensor, Tensor) override {}
  void accumulate(Exec&, Tensor, Tensor) override {}
};

}  // namespace

std::unique_ptr<Backend> make_backend() {
  return std::make_unique<CountedBackend>();
}

/// Addresses that nothing stands behind.
void* allocate(std::size_t bytes) {
  void* data = mmap(nullptr, std::max<std::size_t>(bytes, 1), PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail(Exit::internal, "out of addresses: {} bytes", bytes);
  return data;
}

void release(void* data, std::size_t bytes) noexcept {
  munmap(data, std::max<std::size_t>(bytes, 1));
}

}  // namespace strata::counted
