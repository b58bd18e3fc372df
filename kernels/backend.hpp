#pragma once
// What a backend is: every op of ops.hpp, called after the checks, and the state that they share.
// One implementation a vendor (host/backend.hpp); the declarations mirror ops.hpp.

#include <functional>
#include <span>

#include "core/shared_layouts.hpp"
#include "kernels/ops.hpp"
#include "kernels/portable/math.hpp"

namespace strata {

struct Backend {
  virtual ~Backend() = default;
  virtual void weights_changed() = 0;
  virtual void keep_layouts(bool) {}
  virtual void share_layouts(const std::shared_ptr<SharedLayouts>& /*shared*/, Tensor /*weights*/) {
  }
  virtual std::int64_t layout_bytes() const { return 0; }
  virtual std::int64_t shared_layout_bytes() const { return 0; }
  /// Only a device works on after an op has returned.
  virtual void synchronize() {}
  virtual void wait_for(Backend&) {}
  virtual std::unique_ptr<Moment> make_moment() { return std::make_unique<Moment>(); }
  virtual void mark(Moment&) {}
  virtual void wait_for(const Moment&) {}
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void measure_choices(const std::string&) {}
  virtual std::unique_ptr<Recording> record(const std::function<void()>& body) = 0;

  virtual void linear(Exec&, Tensor y, Tensor x, Tensor w, Tensor b) = 0;
  virtual Buffer pack(Exec&, Tensor w) = 0;
  virtual void linear(Exec&, Tensor y, Tensor x, const ops::PackedWeight& w, Tensor b,
                      std::int64_t block) = 0;
  virtual void linear_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                               Tensor w) = 0;
  virtual void conv2d(Exec&, Tensor y, Tensor x, Tensor w, Tensor b, ops::Conv2dParams) = 0;
  virtual void conv2d_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                               Tensor w, ops::Conv2dParams) = 0;

  virtual void group_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, int groups,
                          float eps, ops::Activation) = 0;
  virtual void group_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                                   Tensor x, Tensor w, Tensor b, int groups, ops::Activation) = 0;
  virtual void layer_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b,
                          float eps) = 0;
  virtual void layer_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                                   Tensor x, Tensor w) = 0;
  virtual void rms_norm(Exec&, Tensor y, Tensor x, Tensor w, float eps, ops::RmsScale) = 0;

  virtual void silu(Exec&, Tensor y, Tensor x) = 0;
  virtual void silu_backward(Exec&, Tensor dx, Tensor dy, Tensor x) = 0;
  virtual void geglu(Exec&, Tensor y, Tensor h) = 0;
  virtual void geglu_backward(Exec&, Tensor dh, Tensor dy, Tensor h) = 0;
  virtual void activation(Exec&, Tensor y, Tensor x, ops::Activation) = 0;
  virtual void gated(Exec&, Tensor y, Tensor gate, Tensor up, ops::Activation) = 0;
  virtual void add(Exec&, Tensor y, Tensor a, Tensor b) = 0;
  virtual void add_per_sample(Exec&, Tensor y, Tensor x, Tensor bias) = 0;
  virtual void add_per_sample_backward(Exec&, Tensor dbias, Tensor dy) = 0;
  virtual void cast(Exec&, Tensor y, Tensor x) = 0;
  virtual void fill(Exec&, Tensor y, float value) = 0;
  virtual void scale(Exec&, Tensor y, Tensor x, float factor) = 0;

  virtual void concat(Exec&, Tensor y, Tensor a, Tensor b) = 0;
  virtual void split(Exec&, Tensor a, Tensor b, Tensor y) = 0;
  virtual void upsample_nearest(Exec&, Tensor y, Tensor x) = 0;
  virtual void upsample_nearest_backward(Exec&, Tensor dx, Tensor dy) = 0;
  virtual void nchw_to_nhwc(Exec&, Tensor y, Tensor x) = 0;
  virtual void nhwc_to_nchw(Exec&, Tensor y, Tensor x) = 0;

  virtual void attention(Exec&, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v,
                         Tensor q_offsets, Tensor k_offsets, ops::AttentionParams) = 0;
  virtual void attention_backward(Exec&, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q,
                                  Tensor k, Tensor v, Tensor o, Tensor lse, Tensor q_offsets,
                                  Tensor k_offsets, ops::AttentionParams) = 0;
  virtual void rope(Exec&, Tensor x, Tensor positions, Tensor inv_freq) = 0;
  virtual void store_in_pages(Exec&, Tensor keys, Tensor values, Tensor k, Tensor v,
                              Tensor slots) = 0;
  virtual void attention_paged(Exec&, Tensor o, Tensor q, Tensor keys, Tensor values, Tensor pages,
                               Tensor lengths, ops::AttentionParams) = 0;

  virtual void embedding(Exec&, Tensor y, Tensor table, Tensor ids) = 0;
  virtual void timestep_embedding(Exec&, Tensor y, Tensor t, bool flip_sin_to_cos,
                                  float freq_shift) = 0;
  virtual void accumulate_layer(Exec&, Tensor sum, Tensor x, bool normalised) = 0;

  virtual void normals(Exec&, Tensor out, PhiloxKey key, Tensor at) = 0;
  virtual void draw_posterior(Exec&, Tensor y, Tensor moments, Tensor noise) = 0;
  virtual void add_noise(Exec&, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s) = 0;
  virtual void mse_loss(Exec&, Tensor loss, Tensor dprediction, Tensor prediction, Tensor target,
                        Tensor weight, float grad_scale) = 0;

  virtual void adamw(Exec&, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad,
                     Tensor ema, Tensor decision) = 0;
  virtual void gradient_stats(Exec&, Tensor squares, Tensor non_finite, Tensor grad,
                              std::int64_t section) = 0;
  virtual void decide_update(Exec&, Tensor decision, Tensor candidates, Tensor squares,
                             Tensor non_finite) = 0;
  virtual void accumulate(Exec&, Tensor a, Tensor b) = 0;
};

/// Between the beginning and the end of a recording on this thread.
bool is_recording();
/// Error(70) then; `what` is what would be done.
void forbid_while_recording(const char* what);
/// Error(70): ops in a recording wait for ops outside of it, or the other way round. CUDA knows the
/// order of ops of one recording only ("Cross-stream dependencies and events" in its programming
/// guide).
[[noreturn]] void fail_outside_of_recording();
/// Calls body and forbids meanwhile what a recording cannot hold.
void call_for_recording(const std::function<void()>& body);

namespace host {
std::unique_ptr<Backend> make_backend(int threads);
/// The CPUs that this process may use, or OMP_NUM_THREADS.
int default_threads();
/// task(thread, index) for each index of [0, count): each thread takes the next that nobody has.
void run_team(int threads, std::int64_t count,
              const std::function<void(int thread, std::int64_t index)>& task);
void* allocate(std::size_t bytes);
void release(void* data) noexcept;
}  // namespace host

namespace counted {
std::unique_ptr<Backend> make_backend();
void* allocate(std::size_t bytes);
void release(void* data, std::size_t bytes) noexcept;
}  // namespace counted

namespace cuda {
std::unique_ptr<Backend> make_backend(Device device);
void* allocate(Device device, std::size_t bytes);
void release(Device device, void* data) noexcept;
void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);
/// Memory that the host and the device both see: what tests keep their tensors in.
void* allocate_visible(Device device, std::size_t bytes);
void release_visible(void* data) noexcept;
void* allocate_pinned(Device device, std::size_t bytes);
void release_pinned(void* data) noexcept;
}  // namespace cuda

}  // namespace strata
