#pragma once
// The CUDA backend: cuDNN for convolutions and the U-Net's attention, cuBLASLt for matrix products,
// our own kernels for the rest. Ops are given to one stream and return before they are done.

#include "kernels/backend.hpp"
#include "kernels/cuda/attention_route.hpp"
#include "kernels/cuda/graphs.hpp"
#include "kernels/cuda/matmul.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/cuda/sequences.hpp"

namespace strata::cuda {

namespace tiles {
struct Mask;
}

/// What attention's backward writes, and the gradient that it is given.
struct AttentionGradients {
  Tensor dq, dk, dv, dout;
};

/// A ragged batch, for our own kernels and for cuDNN's.
struct AttentionCounts {
  Sequences queries, keys;
  RaggedCounts of_graph;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(Device device);

  void weights_changed() override {}  // every op reads the weights where they lie
  void synchronize() override;
  void wait_for(Backend& other) override;
  std::unique_ptr<Moment> make_moment() override;
  void mark(Moment& moment) override;
  void wait_for(const Moment& moment) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  void measure_choices(const std::string& folder) override;
  std::unique_ptr<Recording> record(const std::function<void()>& body) override;

  /// Where ops go. Its device is made current, because an Exec may be used by another thread than
  /// the one that made it.
  cudaStream_t stream();

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
  /// A recording in the making: who takes part in it.
  struct Session {
    KeptUploads* kept;
    std::vector<CudaBackend*> members;
  };
  void join(Session& session);
  /// A small host tensor (counts, ids) as a device tensor in the arena; one that is on the device
  /// as it is.
  Tensor upload(Exec&, const Tensor& counts);
  void input_gradient(Exec&, Tensor dx, Tensor dy, Tensor w, ops::Conv2dParams);
  /// dw (N,R,S,C) f32 += the convolution's weight gradient.
  void weight_gradient(Exec&, Tensor dw, Tensor dy, Tensor x, ops::Conv2dParams);
  void vendor_attention(Exec&, const AttentionShape&, Tensor o, Tensor lse, Tensor q, Tensor k,
                        Tensor v, Tensor q_offsets, Tensor k_offsets);
  void vendor_attention_backward(Exec&, const AttentionShape&, const AttentionGradients&, Tensor q,
                                 Tensor k, Tensor v, Tensor o, Tensor lse, Tensor q_offsets,
                                 Tensor k_offsets);
  void own_attention_backward(Exec&, const AttentionGradients&, Tensor q, Tensor k, Tensor v,
                              Tensor o, Tensor lse, Tensor q_offsets, Tensor k_offsets,
                              const ops::AttentionParams&);
  /// Lengths and offsets of ragged sequences, on the device.
  AttentionCounts counts_of(Exec&, const AttentionShape&, const Tensor& q_offsets,
                            const Tensor& k_offsets);
  /// What a query sees, for our own attention kernels; offsets and bias on the device.
  tiles::Mask mask_of(Exec&, const Tensor& q, const Tensor& k, const Tensor& q_offsets,
                      const Tensor& k_offsets, const ops::AttentionParams&);
  /// to (N) f32 += the sums over the rows of x (M,N).
  void add_column_sums(Exec&, Tensor to, Tensor x);

  Device device_;
  int compute_capability_;
  Stream stream_;
  /// Where ops are recorded: the legacy default stream knows nothing of it, so that what others do
  /// there cannot get in the way.
  Stream recorder_{cudaStreamNonBlocking};
  Session* session_ = nullptr;
  Event reached_;  // what wait_for waits for
  Staging staging_;
  Matmul matmul_;
  Graphs graphs_;
};

}  // namespace strata::cuda
