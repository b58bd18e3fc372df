// The public edge: each op checks its tensors once, then calls the backend of its Exec.

#include "kernels/ops.hpp"

#include "kernels/backend.hpp"
#include "kernels/op_check.hpp"
#include "kernels/portable/dispatch.hpp"

namespace strata::ops {

using portable::rows_of;

namespace {

/// (M,K) times (K,N).
double product_flops(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

enum class Rows { all_owned, may_be_left };

/// (B+1) non-decreasing host offsets ending at `total`, or before it where rows may be left.
void check_offsets(const char* op, const char* name, const Tensor& offsets, std::int64_t total,
                   Rows rows = Rows::all_owned) {
  const auto bad = [&](const char* what) { fail(Exit::internal, "{}: {} {}", op, name, what); };
  if (!offsets || !(offsets.device == host_device)) bad("must be on the host");
  if (offsets.dtype != DType::i64 || offsets.shape.rank() != 1 || offsets.shape[0] < 1)
    bad("must be (B+1) i64");
  const auto* at = offsets.as<std::int64_t>();
  const std::int64_t count = offsets.shape[0] - 1;
  const bool ends = at[count] == total || (rows == Rows::may_be_left && at[count] < total);
  if (at[0] != 0 || !ends) bad("must begin at 0 and end at the number of rows");
  for (std::int64_t i = 0; i < count; ++i)
    if (at[i] > at[i + 1]) bad("must not decrease");
}

}  // namespace

// --- linear, convolution

void linear(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b) {
  const Check check(exec, "linear");
  check.activation("x", x).rank("w", w, 2);
  const std::int64_t n = w.shape[0], k = w.shape[1], m = rows_of(x);
  check.matrix("x", x, x.dtype, m, k).is("w", w, x.dtype, {n, k}).matrix("y", y, x.dtype, m, n);
  check.optional("b", b, x.dtype, {n});
  check.flops(product_flops(m, n, k));
  exec.backend().linear(exec, y, x, w, b);
}

PackedWeight pack(Exec& exec, Tensor w) {
  const Check check(exec, "pack");
  check.activation("w", w).rank("w", w, 2);
  return {w.shape[0], w.shape[1], exec.backend().pack(exec, w)};
}

void linear(Exec& exec, Tensor y, Tensor x, const PackedWeight& w, Tensor b, std::int64_t block) {
  const Check check(exec, "linear");
  const std::int64_t m = rows_of(x);
  check.activation("x", x).matrix("x", x, x.dtype, m, w.k).matrix("y", y, x.dtype, m, w.n);
  check.is("w", w.data, x.dtype, w.data.tensor().shape).optional("b", b, x.dtype, {w.n});
  check.that(block == packed_rows || block == packed_few_rows, "blocks of {} rows", block);
  check.that(m % block == 0, "{} rows, not a multiple of {}", m, block);
  check.flops(product_flops(m, w.n, w.k));
  exec.backend().linear(exec, y, x, w, b, block);
}

void linear_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w) {
  if (spans::are_kept() && dx && (dw || db)) {
    linear_backward(exec, dx, {}, {}, dy, x, w);
    return linear_backward(exec, {}, dw, db, dy, x, w);
  }
  const Check check(exec, dx ? "linear_backward" : "linear_backward dw");
  check.activation("x", x).rank("w", w, 2);
  const std::int64_t n = w.shape[0], k = w.shape[1], m = rows_of(x);
  check.matrix("x", x, x.dtype, m, k).is("w", w, x.dtype, {n, k}).matrix("dy", dy, x.dtype, m, n);
  if (dx) check.matrix("dx", dx, x.dtype, m, k);
  check.optional("dw", dw, DType::f32, {n, k}).optional("db", db, DType::f32, {n});
  check.flops(product_flops(m, n, k) * ((dx ? 1 : 0) + (dw ? 1 : 0)));
  exec.backend().linear_backward(exec, dx, dw, db, dy, x, w);
}

namespace {
void check_conv(const Check& check, const char* y_name, const Tensor& y, const Tensor& x,
                const Tensor& w, const Conv2dParams& p) {
  check.activation("x", x).rank("x", x, 4).rank("w", w, 4);
  check.that(
      p.stride >= 1 && p.pad_top >= 0 && p.pad_left >= 0 && p.pad_bottom >= 0 && p.pad_right >= 0,
      "bad stride or padding");
  const std::int64_t height = (x.shape[1] + p.pad_top + p.pad_bottom - w.shape[1]) / p.stride + 1;
  const std::int64_t width = (x.shape[2] + p.pad_left + p.pad_right - w.shape[2]) / p.stride + 1;
  check.is("w", w, x.dtype, {w.shape[0], w.shape[1], w.shape[2], x.shape[3]});
  check.is(y_name, y, x.dtype, {x.shape[0], height, width, w.shape[0]});
}
}  // namespace

void conv2d(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b, Conv2dParams p) {
  const Check check(exec, "conv2d");
  check_conv(check, "y", y, x, w, p);
  check.optional("b", b, x.dtype, {w.shape[0]});
  check.flops(product_flops(rows_of(y), w.shape[0], w.numel() / w.shape[0]));
  exec.backend().conv2d(exec, y, x, w, b, p);
}

void conv2d_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x, Tensor w,
                     Conv2dParams p) {
  if (spans::are_kept() && dx && (dw || db)) {
    conv2d_backward(exec, dx, {}, {}, dy, x, w, p);
    return conv2d_backward(exec, {}, dw, db, dy, x, w, p);
  }
  const Check check(exec, dx ? "conv2d_backward" : "conv2d_backward dw");
  check_conv(check, "dy", dy, x, w, p);
  check.optional("dx", dx, x.dtype, x.shape).optional("dw", dw, DType::f32, w.shape);
  check.optional("db", db, DType::f32, {w.shape[0]});
  check.flops(product_flops(rows_of(dy), w.shape[0], w.numel() / w.shape[0]) *
              ((dx ? 1 : 0) + (dw ? 1 : 0)));
  exec.backend().conv2d_backward(exec, dx, dw, db, dy, x, w, p);
}

// --- normalisation

void group_norm(Exec& exec, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, int groups,
                float eps, Activation activation) {
  const Check check(exec, "group_norm");
  check.activation("x", x, 2).is("y", y, x.dtype, x.shape);
  const std::int64_t channels = x.shape[-1];
  check.that(activation == Activation::none || activation == Activation::silu,
             "an activation other than silu");
  check.that(groups > 0 && channels % groups == 0, "{} channels, {} groups", channels, groups);
  check.is("w", w, x.dtype, {channels}).is("b", b, x.dtype, {channels});
  check.optional("stats", stats, DType::f32, {x.shape[0], groups, 2});
  exec.backend().group_norm(exec, y, stats, x, w, b, groups, eps, activation);
}

void group_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                         Tensor x, Tensor w, Tensor b, int groups, Activation activation) {
  const Check check(exec, "group_norm_backward");
  check.activation("x", x, 2).is("dy", dy, x.dtype, x.shape).is("dx", dx, x.dtype, x.shape);
  const std::int64_t channels = x.shape[-1];
  check.that(groups > 0 && channels % groups == 0, "{} channels, {} groups", channels, groups);
  check.is("w", w, x.dtype, {channels}).is("b", b, x.dtype, {channels});
  check.optional("dw", dw, DType::f32, {channels}).optional("db", db, DType::f32, {channels});
  check.is("stats", stats, DType::f32, {x.shape[0], groups, 2});
  exec.backend().group_norm_backward(exec, dx, dw, db, dy, stats, x, w, b, groups, activation);
}

void layer_norm(Exec& exec, Tensor y, Tensor stats, Tensor x, Tensor w, Tensor b, float eps) {
  const Check check(exec, "layer_norm");
  check.activation("x", x);
  const std::int64_t m = rows_of(x), channels = x.shape[-1];
  check.matrix("y", y, x.dtype, m, channels).optional("w", w, x.dtype, {channels});
  check.optional("b", b, x.dtype, {channels}).optional("stats", stats, DType::f32, {m, 2});
  check.that(static_cast<bool>(w) == static_cast<bool>(b), "w and b come together");
  exec.backend().layer_norm(exec, y, stats, x, w, b, eps);
}

void layer_norm_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor stats,
                         Tensor x, Tensor w) {
  const Check check(exec, "layer_norm_backward");
  check.activation("x", x);
  const std::int64_t m = rows_of(x), channels = x.shape[-1];
  check.matrix("dx", dx, x.dtype, m, channels).matrix("dy", dy, x.dtype, m, channels);
  check.optional("w", w, x.dtype, {channels}).is("stats", stats, DType::f32, {m, 2});
  check.optional("dw", dw, DType::f32, {channels}).optional("db", db, DType::f32, {channels});
  exec.backend().layer_norm_backward(exec, dx, dw, db, dy, stats, x, w);
}

void rms_norm(Exec& exec, Tensor y, Tensor x, Tensor w, float eps, RmsScale scale) {
  const Check check(exec, "rms_norm");
  check.activation("x", x);
  check.matrix("y", y, x.dtype, rows_of(x), x.shape[-1]).is("w", w, x.dtype, {x.shape[-1]});
  exec.backend().rms_norm(exec, y, x, w, eps, scale);
}

// --- pointwise

void silu(Exec& exec, Tensor y, Tensor x) {
  const Check check(exec, "silu");
  check.activation("x", x, 0).is("y", y, x.dtype, x.shape);
  exec.backend().silu(exec, y, x);
}

void silu_backward(Exec& exec, Tensor dx, Tensor dy, Tensor x) {
  const Check check(exec, "silu_backward");
  check.activation("x", x, 0).is("dy", dy, x.dtype, x.shape).is("dx", dx, x.dtype, x.shape);
  exec.backend().silu_backward(exec, dx, dy, x);
}

void geglu(Exec& exec, Tensor y, Tensor h) {
  const Check check(exec, "geglu");
  check.activation("y", y).matrix("h", h, y.dtype, rows_of(y), 2 * y.shape[-1]);
  exec.backend().geglu(exec, y, h);
}

void geglu_backward(Exec& exec, Tensor dh, Tensor dy, Tensor h) {
  const Check check(exec, "geglu_backward");
  check.activation("dy", dy).matrix("h", h, dy.dtype, rows_of(dy), 2 * dy.shape[-1]);
  check.matrix("dh", dh, dy.dtype, rows_of(dy), 2 * dy.shape[-1]);
  exec.backend().geglu_backward(exec, dh, dy, h);
}

void activation(Exec& exec, Tensor y, Tensor x, Activation activation) {
  const Check check(exec, "activation");
  check.activation("y", y, 0).is("x", x, y.dtype, y.shape);
  exec.backend().activation(exec, y, x, activation);
}

void gated(Exec& exec, Tensor y, Tensor gate, Tensor up, Activation activation) {
  const Check check(exec, "gated");
  check.activation("y", y, 0).is("gate", gate, y.dtype, y.shape).is("up", up, y.dtype, y.shape);
  exec.backend().gated(exec, y, gate, up, activation);
}

void add(Exec& exec, Tensor y, Tensor a, Tensor b) {
  const Check check(exec, "add");
  check.activation("y", y, 0).elements("a", a, y.numel()).elements("b", b, y.numel());
  check.that(a.dtype == y.dtype && b.dtype == y.dtype, "dtypes differ");
  exec.backend().add(exec, y, a, b);
}

void add_per_sample(Exec& exec, Tensor y, Tensor x, Tensor bias) {
  const Check check(exec, "add_per_sample");
  check.activation("x", x, 2).is("y", y, x.dtype, x.shape);
  check.is("bias", bias, x.dtype, {x.shape[0], x.shape[-1]});
  exec.backend().add_per_sample(exec, y, x, bias);
}

void add_per_sample_backward(Exec& exec, Tensor dbias, Tensor dy) {
  const Check check(exec, "add_per_sample_backward");
  check.activation("dy", dy, 2).is("dbias", dbias, dy.dtype, {dy.shape[0], dy.shape[-1]});
  exec.backend().add_per_sample_backward(exec, dbias, dy);
}

void cast(Exec& exec, Tensor y, Tensor x) {
  const Check check(exec, "cast");
  check.floating("y", y).elements("x", x, y.numel());
  check.that(x.dtype == DType::f32 || x.dtype == DType::bf16 || x.dtype == DType::f16,
             "x is {}, not a floating type", name_of(x.dtype));
  exec.backend().cast(exec, y, x);
}

void fill(Exec& exec, Tensor y, float value) {
  const Check check(exec, "fill");
  check.floating("y", y);
  exec.backend().fill(exec, y, value);
}

void scale(Exec& exec, Tensor y, Tensor x, float factor) {
  const Check check(exec, "scale");
  check.floating("y", y).floating("x", x).elements("x", x, y.numel());
  exec.backend().scale(exec, y, x, factor);
}

// --- shape

void concat(Exec& exec, Tensor y, Tensor a, Tensor b) {
  const Check check(exec, "concat");
  check.activation("y", y).activation("a", a).activation("b", b);
  check.matrix("a", a, y.dtype, rows_of(y), a.shape[-1]);
  check.matrix("b", b, y.dtype, rows_of(y), y.shape[-1] - a.shape[-1]);
  exec.backend().concat(exec, y, a, b);
}

void split(Exec& exec, Tensor a, Tensor b, Tensor y) {
  const Check check(exec, "split");
  check.activation("y", y).activation("a", a).activation("b", b);
  check.matrix("a", a, y.dtype, rows_of(y), a.shape[-1]);
  check.matrix("b", b, y.dtype, rows_of(y), y.shape[-1] - a.shape[-1]);
  exec.backend().split(exec, a, b, y);
}

void upsample_nearest(Exec& exec, Tensor y, Tensor x) {
  const Check check(exec, "upsample_nearest");
  check.activation("x", x).rank("x", x, 4).rank("y", y, 4);
  check.is("y", y, x.dtype, {x.shape[0], y.shape[1], y.shape[2], x.shape[3]});
  exec.backend().upsample_nearest(exec, y, x);
}

void upsample_nearest_backward(Exec& exec, Tensor dx, Tensor dy) {
  const Check check(exec, "upsample_nearest_backward");
  check.activation("dx", dx).rank("dx", dx, 4).rank("dy", dy, 4);
  check.is("dy", dy, dx.dtype, {dx.shape[0], dy.shape[1], dy.shape[2], dx.shape[3]});
  exec.backend().upsample_nearest_backward(exec, dx, dy);
}

void nchw_to_nhwc(Exec& exec, Tensor y, Tensor x) {
  const Check check(exec, "nchw_to_nhwc");
  check.floating("x", x).floating("y", y).rank("x", x, 4);
  check.is("y", y, y.dtype, {x.shape[0], x.shape[2], x.shape[3], x.shape[1]});
  exec.backend().nchw_to_nhwc(exec, y, x);
}

void nhwc_to_nchw(Exec& exec, Tensor y, Tensor x) {
  const Check check(exec, "nhwc_to_nchw");
  check.floating("x", x).floating("y", y).rank("x", x, 4);
  check.is("y", y, y.dtype, {x.shape[0], x.shape[3], x.shape[1], x.shape[2]});
  exec.backend().nhwc_to_nchw(exec, y, x);
}

// --- attention

namespace {
/// q_rows: whether queries may be nobody's where both offsets are one tensor.
void check_attention(const Check& check, const char* op, const Tensor& q, const Tensor& k,
                     const Tensor& v, const Tensor& o, const Tensor& q_offsets,
                     const Tensor& k_offsets, const AttentionParams& p, Rows q_rows) {
  check.activation("q", q).rank("q", q, 3).rank("k", k, 3);
  check.is("k", k, q.dtype, {k.shape[0], k.shape[1], q.shape[2]});
  check.is("v", v, q.dtype, k.shape).is("o", o, q.dtype, q.shape);
  check.that(k.shape[1] > 0 && q.shape[1] % k.shape[1] == 0, "{} heads for {} key heads",
             q.shape[1], k.shape[1]);
  check.that(q_offsets.shape == k_offsets.shape, "offsets of different batches");
  const bool one = q_rows == Rows::may_be_left && q_offsets.data == k_offsets.data;
  if (one)
    check.that(q.shape[0] == k.shape[0], "one tensor of offsets for {} queries and {} keys",
               q.shape[0], k.shape[0]);
  if (!one || q_offsets.device == host_device)
    check_offsets(op, "q_offsets", q_offsets, q.shape[0], one ? q_rows : Rows::all_owned);
  if (k_offsets.device == host_device)
    return check_offsets(op, "k_offsets", k_offsets, k.shape[0], Rows::may_be_left);
  check.is("k_offsets", k_offsets, DType::i64, q_offsets.shape);
  check.that(p.longest_keys > 0, "k_offsets on the device need longest_keys");
  check.that(one || (!p.causal && p.window < 0 && !p.relative_bias),
             "k_offsets on the device know no positions");
}

/// Scores and weighted sums of every query with every key of its sequence; 0 where the offsets are
/// not known here.
double attention_flops(const Tensor& q, const Tensor& q_offsets, const Tensor& k_offsets) {
  if (!(k_offsets.device == host_device)) return 0;
  double pairs = 0;
  const auto *q_at = q_offsets.as<std::int64_t>(), *k_at = k_offsets.as<std::int64_t>();
  for (std::int64_t b = 0; b + 1 < q_offsets.numel(); ++b)
    pairs += static_cast<double>((q_at[b + 1] - q_at[b]) * (k_at[b + 1] - k_at[b]));
  return 4.0 * pairs * static_cast<double>(q.shape[1] * q.shape[2]);
}

/// Rows behind the last sequence, where the offsets are known here.
void clear_nobodys(Exec& exec, const Tensor& rows, const Tensor& offsets) {
  if (!(offsets.device == host_device)) return;
  const std::int64_t end = offsets.as<std::int64_t>()[offsets.numel() - 1];
  if (end < rows.shape[0]) exec.backend().fill(exec, rows.rows(end, rows.shape[0]), 0.0f);
}
}  // namespace

void attention(Exec& exec, Tensor o, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor q_offsets,
               Tensor k_offsets, AttentionParams p) {
  const Check check(exec, "attention");
  check_attention(check, "attention", q, k, v, o, q_offsets, k_offsets, p, Rows::may_be_left);
  check.optional("lse", lse, DType::f32, {q.shape[0], q.shape[1]});
  if (const Tensor& bias = p.relative_bias) {
    check.rank("relative_bias", bias, 2).is("relative_bias", bias, DType::f32, bias.shape);
    check.that(bias.shape[0] == q.shape[1] && bias.shape[1] % 2 == 1,
               "relative_bias is {} for {} heads", to_string(bias.shape), q.shape[1]);
  }
  const bool by_position =
      (p.causal || p.window >= 0 || p.relative_bias) && q_offsets.data != k_offsets.data;
  for (std::int64_t i = 0; by_position && i + 1 < q_offsets.numel(); ++i) {
    const auto *q_at = q_offsets.as<std::int64_t>() + i, *k_at = k_offsets.as<std::int64_t>() + i;
    check.that(q_at[1] - q_at[0] <= k_at[1] - k_at[0], "sequence {} has more queries than keys", i);
  }
  if (spans::are_kept()) check.flops(attention_flops(q, q_offsets, k_offsets));
  exec.backend().attention(exec, o, lse, q, k, v, q_offsets, k_offsets, p);
}

void attention_backward(Exec& exec, Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor q,
                        Tensor k, Tensor v, Tensor o, Tensor lse, Tensor q_offsets,
                        Tensor k_offsets, AttentionParams p) {
  const Check check(exec, "attention_backward");
  check_attention(check, "attention_backward", q, k, v, o, q_offsets, k_offsets, p,
                  Rows::all_owned);
  check.that(p.window < 0 && p.softcap == 0 && !p.relative_bias,
             "no gradient through a window, a softcap or a relative bias");
  check.is("dout", dout, q.dtype, q.shape).is("dq", dq, q.dtype, q.shape);
  check.is("dk", dk, q.dtype, k.shape).is("dv", dv, q.dtype, k.shape);
  check.is("lse", lse, DType::f32, {q.shape[0], q.shape[1]});
  // Two products forward, four and the scores once more backward.
  if (spans::are_kept()) check.flops(2.5 * attention_flops(q, q_offsets, k_offsets));
  exec.backend().attention_backward(exec, dq, dk, dv, dout, q, k, v, o, lse, q_offsets, k_offsets,
                                    p);
  clear_nobodys(exec, dk, k_offsets);
  clear_nobodys(exec, dv, k_offsets);
}

void rope(Exec& exec, Tensor x, Tensor positions, Tensor inv_freq) {
  const Check check(exec, "rope");
  check.activation("x", x).rank("x", x, 3);
  check.that(x.shape[2] % 2 == 0, "odd head width {}", x.shape[2]);
  check.is("inv_freq", inv_freq, DType::f32, {x.shape[2] / 2});
  check.indices("positions", positions, {x.shape[0]});
  const auto* at = positions.as<std::int64_t>();
  for (std::int64_t t = 0; positions.device == host_device && t < x.shape[0]; ++t)
    check.that(at[t] >= 0, "row {} at position {}", t, at[t]);
  exec.backend().rope(exec, x, positions, inv_freq);
}

namespace {
/// Keys and values of P pages that fit rows of (.,Nkv,D).
void check_pages(const Check& check, const Tensor& keys, const Tensor& values, DType dtype,
                 std::int64_t key_heads, std::int64_t width) {
  check.rank("keys", keys, 4);
  check.is("keys", keys, dtype, {keys.shape[0], key_heads, width, page_positions});
  check.is("values", values, dtype, {keys.shape[0], key_heads, page_positions, width});
}
}  // namespace

void store_in_pages(Exec& exec, Tensor keys, Tensor values, Tensor k, Tensor v, Tensor slots) {
  const Check check(exec, "store_in_pages");
  check.activation("k", k).rank("k", k, 3).is("v", v, k.dtype, k.shape);
  check_pages(check, keys, values, k.dtype, k.shape[1], k.shape[2]);
  check.counts("slots", slots, {k.shape[0]});
  for (std::int64_t t = 0; t < k.shape[0]; ++t)
    check.that(slots.as<std::int64_t>()[t] < keys.shape[0] * page_positions, "slot {} of {} pages",
               slots.as<std::int64_t>()[t], keys.shape[0]);
  exec.backend().store_in_pages(exec, keys, values, k, v, slots);
}

void attention_paged(Exec& exec, Tensor o, Tensor q, Tensor keys, Tensor values, Tensor pages,
                     Tensor lengths, AttentionParams p) {
  const Check check(exec, "attention_paged");
  check.activation("q", q).rank("q", q, 3).is("o", o, q.dtype, q.shape).rank("keys", keys, 4);
  const std::int64_t key_heads = keys.shape[1];
  check.that(key_heads > 0 && q.shape[1] % key_heads == 0, "{} heads for {} key heads", q.shape[1],
             key_heads);
  check_pages(check, keys, values, q.dtype, key_heads, q.shape[2]);
  check.that(!p.relative_bias, "a relative bias is not supported");
  check.rank("pages", pages, 2);
  check.counts("pages", pages, {q.shape[0], pages.shape[1]});
  check.counts("lengths", lengths, {q.shape[0]});
  for (std::int64_t b = 0; b < q.shape[0]; ++b) {
    const std::int64_t length = lengths.as<std::int64_t>()[b];
    check.that(length >= 1 && length <= pages.shape[1] * page_positions,
               "sequence {}: {} positions in {} pages", b, length, pages.shape[1]);
    const std::int64_t first = p.window < 0 ? 0 : std::max<std::int64_t>(0, length - 1 - p.window);
    for (std::int64_t m = first / page_positions; m * page_positions < length; ++m) {
      const std::int64_t page = pages.as<std::int64_t>()[b * pages.shape[1] + m];
      check.that(page >= 0 && page < keys.shape[0], "sequence {}: page {} of {}", b, page,
                 keys.shape[0]);
    }
  }
  exec.backend().attention_paged(exec, o, q, keys, values, pages, lengths, p);
}

// --- embeddings, text strategies

void embedding(Exec& exec, Tensor y, Tensor table, Tensor ids) {
  const Check check(exec, "embedding");
  check.rank("table", table, 2).indices("ids", ids, {ids.numel()});
  check.is("y", y, table.dtype, {ids.numel(), table.shape[1]});
  exec.backend().embedding(exec, y, table, ids);
}

void timestep_embedding(Exec& exec, Tensor y, Tensor t, bool flip_sin_to_cos, float freq_shift) {
  const Check check(exec, "timestep_embedding");
  check.floating("y", y).rank("y", y, 2).is("t", t, DType::f32, {y.shape[0]});
  check.that(y.shape[1] % 2 == 0, "odd width {}", y.shape[1]);
  exec.backend().timestep_embedding(exec, y, t, flip_sin_to_cos, freq_shift);
}

void accumulate_layer(Exec& exec, Tensor sum, Tensor x, bool normalised) {
  const Check check(exec, "accumulate_layer");
  check.activation("x", x).matrix("sum", sum, DType::f32, rows_of(x), x.shape[-1]);
  exec.backend().accumulate_layer(exec, sum, x, normalised);
}

}  // namespace strata::ops
