#pragma once
// THE list of operations. Read this first.
//
// Conventions, kept by every op:
//   - outputs first after exec, then inputs; all tensors contiguous and on exec.device().
//   - activations and parameters share one dtype, f32 or bf16 ("T" below); statistics, losses and
//     parameter gradients are f32. Arithmetic and accumulation are f32 in both.
//   - activation gradients are assigned, parameter gradients are accumulated (+=).
//   - the backend keeps weights in its own layout by address: Exec::weights_changed() after they
//   changed.
//   - an absent optional tensor is Tensor{}; no rows (M = 0, T = 0) is no work. Shapes and dtypes
//   are checked once, in ops.cpp.
//   - results do not depend on the number of threads.
//
// Letters: B batch, H W image, C channels, M rows, K reduction width, T tokens of all sequences
// laid end to end, N heads, D head width, G groups, F feed-forward width.

#include <span>

#include "core/exec.hpp"
#include "core/rng.hpp"

namespace strata::ops {

// --- linear -------------------------------------------------------------------------------------
/// y (M,N) = x (M,K) w (N,K)^T + b (N). Leading axes of x and y may be more than one.
void linear(Exec&, Tensor y, Tensor x, Tensor w, Tensor b = {});
/// A weight (N,K) in the layout that the backend's products like best; what it was made of may go.
struct PackedWeight {
  std::int64_t n = 0, k = 0;
  Buffer data;
};
/// Rows that a product with a packed weight works on at once: one kernel whatever M, so that a
/// row's bits do not depend on the rows that come with it. Few are for steps of generation, which
/// have one row a text.
inline constexpr std::int64_t packed_rows = 128, packed_few_rows = 16;
PackedWeight pack(Exec&, Tensor w);
/// The same as above, M a multiple of `block`, which is packed_rows or packed_few_rows.
void linear(Exec&, Tensor y, Tensor x, const PackedWeight& w, Tensor b = {},
            std::int64_t block = packed_rows);
/// dx (M,K) = dy w (skipped when absent); dw (N,K) f32 += dy^T x; db (N) f32 += sum dy.
void linear_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w);

// --- convolution --------------------------------------------------------------------------------
struct Conv2dParams {
  int stride = 1;
  int pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1;
};
/// y (B,H',W',N) = x (B,H,W,C) * w (N,R,S,C) + b (N).
void conv2d(Exec&, Tensor y, Tensor x, Tensor w, Tensor b, Conv2dParams);
void conv2d_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w,
                     Conv2dParams);

// --- normalisation ------------------------------------------------------------------------------
enum class Activation {
  none,
  silu,
  gelu,        // x Phi(x)
  gelu_tanh,   // its approximation by tanh (Hendrycks & Gimpel 2016), "gelu_new"
  quick_gelu,  // x sigmoid(1.702 x)
  relu,
};
/// y (B,...,C) = act(group_norm(x) * w + b), act none or silu; stats (B,G,2) f32 receives mean and
/// 1/std (absent: not kept).
void group_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, int groups, float eps,
                Activation);
void group_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats, Tensor x,
                         Tensor w, Tensor b, int groups, Activation);
/// y (M,C) = layer_norm(x) * w + b; stats (M,2) f32. w and b absent: no affine part.
void layer_norm(Exec&, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, float eps);
void layer_norm_backward(Exec&, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats, Tensor x,
                         Tensor w);
enum class RmsScale {
  weight,           // cast(x / rms(x)) * w, the cast to T before the product (Llama, T5)
  one_plus_weight,  // cast(x / rms(x) * (1 + w)), the product in f32 (Gemma)
};
/// y (M,C) = x / rms(x), scaled; rounded where transformers rounds. y may be x.
void rms_norm(Exec&, Tensor y, Tensor x, Tensor w, float eps, RmsScale = RmsScale::weight);

// --- pointwise ----------------------------------------------------------------------------------
void silu(Exec&, Tensor y, Tensor x);
void silu_backward(Exec&, Tensor dx, Tensor dy, Tensor x);
/// y (M,F) = h[:, :F] * gelu(h[:, F:]), h (M,2F), erf GELU (diffusers' GEGLU).
void geglu(Exec&, Tensor y, Tensor h);
void geglu_backward(Exec&, Tensor dh, Tensor dy, Tensor h);
/// y = act(x); y may be x.
void activation(Exec&, Tensor y, Tensor x, Activation);
/// y (M,F) = act(gate) * up (Shazeer 2020); y may be gate or up.
void gated(Exec&, Tensor y, Tensor gate, Tensor up, Activation);
void add(Exec&, Tensor y, Tensor a, Tensor b);  // y may be a or b
/// y (B,...,C) = x + bias (B,C), broadcast over the pixels; y may be x.
void add_per_sample(Exec&, Tensor y, Tensor x, Tensor bias);
/// dbias (B,C) T = sum of dy (B,...,C) over the pixels.
void add_per_sample_backward(Exec&, Tensor dbias, Tensor dy);
/// Conversion between f32, bf16 and f16 (f16 only as a source), same shape.
void cast(Exec&, Tensor y, Tensor x);
void fill(Exec&, Tensor y, float value);

// --- shape --------------------------------------------------------------------------------------
/// y (B,...,C1+C2) = [a | b] over the last axis, and its inverse.
void concat(Exec&, Tensor y, Tensor a, Tensor b);
void split(Exec&, Tensor a, Tensor b, Tensor y);
/// Nearest neighbour, to y's own size: source index = floor(i * H / H').
void upsample_nearest(Exec&, Tensor y, Tensor x);
void upsample_nearest_backward(Exec&, Tensor dx, Tensor dy);
/// y (B,H,W,C) from x (B,C,H,W) and back; either side may be f32 while the other is T.
void nchw_to_nhwc(Exec&, Tensor y, Tensor x);
void nhwc_to_nchw(Exec&, Tensor y, Tensor x);

// --- attention ----------------------------------------------------------------------------------
struct AttentionParams {
  float scale = 1.0f;
  bool causal = false;       // a query sees no key behind its own position
  std::int64_t window = -1;  // >= 0: a query sees no key farther from it than this
  float softcap = 0;         // > 0: a scaled score s becomes softcap * tanh(s / softcap)
  /// (N,2R+1) f32, added to the scores after the cap: the bias of head n for a key that stands d
  /// positions behind the query is [n][R + d], |d| beyond R as R. Absent: none.
  Tensor relative_bias{};
  /// Of any sequence, at least; needed where k_offsets lie on the device.
  std::int64_t longest_keys = 0;
};
/// Ragged softmax attention. q (Tq,N,D), k v (Tk,Nkv,D) with N a multiple of Nkv, o like q;
/// q_offsets k_offsets (B+1) i64 on the host: sequence b owns rows [offsets[b], offsets[b+1]). On
/// exec's device may lie k_offsets, without causal, window and bias, or one tensor that is both
/// (forward). They may end before the last row: rows behind are nobody's, o stays, dk = dv = 0.
/// Where positions matter (causal, window, bias) a sequence's queries are the last of the positions
/// that its keys have. lse (Tq,N) f32 is what backward needs (absent: not kept). A sequence without
/// keys gives o = 0. Backward knows no window, cap or bias and refuses them.
void attention(Exec&, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor q_offsets,
               Tensor k_offsets, AttentionParams);
void attention_backward(Exec&, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q, Tensor k,
                        Tensor v, Tensor o, Tensor lse, Tensor q_offsets, Tensor k_offsets,
                        AttentionParams);
/// Rotary embedding in place on x (T,N,D), pairs (i, i + D/2), row t at positions[t] (T) i64, on
/// the host or on exec's device. inv_freq (D/2) f32.
void rope(Exec&, Tensor x, Tensor positions, Tensor inv_freq);

// Keys and values of texts that grow lie in pages of page_positions positions, P in all: keys
// (P,Nkv,D,page_positions), values (P,Nkv,page_positions,D).
inline constexpr std::int64_t page_positions = 64;
/// Row t of k v (T,Nkv,D) goes to slots[t] = page * page_positions + place, or nowhere where that
/// is negative; slots (T) i64 on the host.
void store_in_pages(Exec&, Tensor keys, Tensor values, Tensor k, Tensor v, Tensor slots);
/// Causal attention of each sequence's newest position: q o (B,N,D); lengths (B) i64 counts the
/// positions, the query's own the last; pages (B,M) i64 says where position i lies: page
/// pages[b][i / page_positions]. Pages that the window hides are not read. Both on the host.
void attention_paged(Exec&, Tensor o, Tensor q, Tensor keys, Tensor values, Tensor pages,
                     Tensor lengths, AttentionParams);

// --- embeddings ---------------------------------------------------------------------------------
/// y (T,C) = table[ids], ids (T) i64; one on the host outside the table throws Error(65), ids on
/// exec's device were checked by who made them. Copies elements, so f16 may pass, too.
void embedding(Exec&, Tensor y, Tensor table, Tensor ids);
/// y (B,C) = [cos | sin] of t * exp(-ln(10000) i / (C/2)), t (B) f32 (diffusers: flip_sin_to_cos,
/// freq_shift as given).
void timestep_embedding(Exec&, Tensor y, Tensor t, bool flip_sin_to_cos, float freq_shift);

// --- text strategies ----------------------------------------------------------------------------
/// sum (M,C) f32 += x, or += layer_norm(x) without affine part (eps 1e-5) when normalised.
void accumulate_layer(Exec&, Tensor sum, Tensor x, bool normalised);
/// y (M,C) = factor * x, either f32 or T; y may be x.
void scale(Exec&, Tensor y, Tensor x, float factor);

// --- diffusion ----------------------------------------------------------------------------------
/// out (B,...) f32: standard normals of row b are a pure function of (key, at[b]); element i of a
/// row uses word i % 4 of block i / 4. Equal bit for bit on every backend.
/// at (B,2) i64 holds PhiloxCounters, on the host or on exec's device.
void normals(Exec&, Tensor out, PhiloxKey key, Tensor at);
/// The same, a counter a row of out.
void normals(Exec&, Tensor out, PhiloxKey key, const PhiloxCounter* at);
/// y (B,C,...) = mean + std * noise in one rounding, moments (B,2C,...) = [mean | std]; all f32, y
/// may be noise.
void draw_posterior(Exec&, Tensor y, Tensor moments, Tensor noise);
/// y_b = a_b * x_b + s_b * noise_b; a s (B) f32; x noise f32, y T.
void add_noise(Exec&, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s);
/// loss (B) f32 = mean over the row of (prediction - target)^2, target f32, any dtype of
/// prediction; dprediction T (absent: not computed) = weight_b * 2 (prediction - target) *
/// grad_scale / row size.
void mse_loss(Exec&, Tensor loss, Tensor dprediction, Tensor prediction, Tensor target,
              Tensor weight, float grad_scale);

// --- optimizer ----------------------------------------------------------------------------------
struct AdamWParams {  // doubles, so that 1 - beta is what PyTorch's is
  double lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  std::int64_t step = 1;    // 1 at the first update
  float grad_scale = 1.0f;  // multiplies the gradient before use
};
struct UpdateParams {
  AdamWParams adamw;
  float ema_decay = 0;  // ema = d ema + (1-d) master
  float clip_norm = 0;  // > 0: a larger gradient is scaled down to this norm
};
/// squares (S) f64 = the sums of squares of each run of `section` elements of grad (n) f32, the
/// last run shorter; non_finite () f64 += elements that are not finite, which count as 0 in
/// squares.
void gradient_stats(Exec&, Tensor squares, Tensor non_finite, Tensor grad, std::int64_t section);
/// What an update needs, ready for decide_update: candidates (candidates_bytes) u8 on the host. The
/// i-th of at most two holds where i more updates were made than the first one's step says; they
/// differ in what depends on that.
inline constexpr std::int64_t candidates_bytes = 104, decision_bytes = 72;
void write_candidates(Tensor candidates, std::span<const UpdateParams> updates);
/// decision (decision_bytes) u8: which candidate it is, the norm of the whole gradient in the order
/// of its sections, clipping, and nothing at all where it is not finite. It counts updates from
/// what it holds before; candidates here lie on exec's device.
void decide_update(Exec&, Tensor decision, Tensor candidates, Tensor squares, Tensor non_finite);
struct UpdateOutcome {
  bool applied = false;
  double grad_norm = 0;
  std::int64_t non_finite = 0, updates = 0;  // elements; updates made so far
};
UpdateOutcome read_decision(const std::byte* decision);
/// A decision on the host for this update whatever its gradient, or (step 0) for none so far.
Buffer decision_of(const UpdateParams& update);
/// Decoupled AdamW (Loshchilov & Hutter 2019) as torch.optim.AdamW computes it, on flat f32 shards
/// (n), as decided; param T receives the rounded master weights. ema (n) f32 optional.
void adamw(Exec&, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor ema,
           Tensor decision);
/// a (n) f32 += b (n), b f32 or bf16.
void accumulate(Exec&, Tensor a, Tensor b);

}  // namespace strata::ops
