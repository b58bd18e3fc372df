#pragma once
// The host backend: oneDNN for matrix products and convolutions, Kokkos row loops for the rest.

#include "kernels/backend.hpp"
#include "kernels/host/vendor.hpp"

namespace strata::host {

class HostBackend final : public Backend {
 public:
  explicit HostBackend(int threads) : vendor_(threads) {}

  void weights_changed() override { vendor_.weights_changed(); }
  void keep_layouts(bool keep) override { vendor_.keep_layouts(keep); }
  void share_layouts(const std::shared_ptr<SharedLayouts>& shared, Tensor weights) override {
    vendor_.share_layouts(shared, weights);
  }
  std::int64_t layout_bytes() const override { return vendor_.layout_bytes(); }
  std::int64_t shared_layout_bytes() const override { return vendor_.shared_layout_bytes(); }
  void copy(void* to, const void* from, std::size_t bytes) override;
  std::unique_ptr<Recording> record(const std::function<void()>& body) override;

  void linear(Exec&, Tensor y, Tensor x, Tensor w, Tensor b) override;
  Buffer pack(Exec&, Tensor w) override;
  void linear(Exec&, Tensor y, Tensor x, const ops::PackedWeight& w, Tensor b,
              std::int64_t block) override;
  void linear_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                       Tensor w) override;
  void conv2d(Exec&, Tensor y, Tensor x, Tensor w, Tensor b, ops::Conv2dParams) override;
  void conv2d_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w,
                       ops::Conv2dParams) override;

  void group_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, int groups,
                  float eps, ops::Activation) override;
  void group_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                           Tensor x, Tensor w, Tensor b, int groups, ops::Activation) override;
  void layer_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, float eps) override;
  void layer_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                           Tensor x, Tensor w) override;
  void rms_norm(Exec&, Tensor y, Tensor x, Tensor w, float eps, ops::RmsScale) override;

  void silu(Exec&, Tensor y, Tensor x) override;
  void silu_backward(Exec&, Tensor dx, Tensor dy, Tensor x) override;
  void geglu(Exec&, Tensor y, Tensor h) override;
  void geglu_backward(Exec&, Tensor dh, Tensor dy, Tensor h) override;
  void activation(Exec&, Tensor y, Tensor x, ops::Activation) override;
  void gated(Exec&, Tensor y, Tensor gate, Tensor up, ops::Activation) override;
  void add(Exec&, Tensor y, Tensor a, Tensor b) override;
  void add_per_sample(Exec&, Tensor y, Tensor x, Tensor bias) override;
  void add_per_sample_backward(Exec&, Tensor dbias, Tensor dy) override;
  void cast(Exec&, Tensor y, Tensor x) override;
  void fill(Exec&, Tensor y, float value) override;
  void scale(Exec&, Tensor y, Tensor x, float factor) override;

  void concat(Exec&, Tensor y, Tensor a, Tensor b) override;
  void split(Exec&, Tensor a, Tensor b, Tensor y) override;
  void upsample_nearest(Exec&, Tensor y, Tensor x) override;
  void upsample_nearest_backward(Exec&, Tensor dx, Tensor dy) override;
  void nchw_to_nhwc(Exec&, Tensor y, Tensor x) override;
  void nhwc_to_nchw(Exec&, Tensor y, Tensor x) override;

  void attention(Exec&, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor q_offsets,
                 Tensor k_offsets, ops::AttentionParams) override;
  void attention_backward(Exec&, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k,
                          Tensor v, Tensor o, Tensor lse, Tensor q_offsets, Tensor k_offsets,
                          ops::AttentionParams) override;
  void rope(Exec&, Tensor x, Tensor positions, Tensor inv_freq) override;
  void store_in_pages(Exec&, Tensor keys, Tensor values, Tensor k, Tensor v, Tensor slots) override;
  void attention_paged(Exec&, Tensor o, Tensor q, Tensor keys, Tensor values, Tensor pages,
                       Tensor lengths, ops::AttentionParams) override;

  void embedding(Exec&, Tensor y, Tensor table, Tensor ids) override;
  void timestep_embedding(Exec&, Tensor y, Tensor t, bool flip_sin_to_cos,
                          float freq_shift) override;
  void accumulate_layer(Exec&, Tensor sum, Tensor x, bool normalised) override;

  void normals(Exec&, Tensor out, PhiloxKey key, Tensor at) override;
  void draw_posterior(Exec&, Tensor y, Tensor moments, Tensor noise) override;
  void add_noise(Exec&, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s) override;
  void mse_loss(Exec&, Tensor loss, Tensor dprediction, Tensor prediction, Tensor target,
                Tensor weight, float grad_scale) override;

  void adamw(Exec&, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor ema,
             Tensor decision) override;
  void gradient_stats(Exec&, Tensor squares, Tensor non_finite, Tensor grad,
                      std::int64_t section) override;
  void decide_update(Exec&, Tensor decision, Tensor candidates, Tensor squares,
                     Tensor non_finite) override;
  void accumulate(Exec&, Tensor a, Tensor b) override;

 private:
  /// The layout of packed weights: what one thread wants for packed_rows rows, whoever asks.
  const dnnl::memory::desc& packed_layout(DType dtype, std::int64_t n, std::int64_t k);
  /// The product of `rows` rows with a packed weight, on `threads` threads.
  const Call& packed_call(DType dtype, std::int64_t rows, std::int64_t n, std::int64_t k, bool bias,
                          int threads);
  /// dw (N,K) f32 += dy (M,N)^T x (M,K), the same bits for any number of threads.
  void weight_gradient(Exec&, Tensor dw, Tensor dy, Tensor x);
  /// dw (N,R,S,C) f32 += the convolution's weight gradient, likewise.
  void weight_gradient(Exec&, Tensor dw, Tensor dy, Tensor x, ops::Conv2dParams);

  Vendor vendor_;
};

}  // namespace strata::host
