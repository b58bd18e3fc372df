// Matrix products: oneDNN matmul. A product whose number of rows is not a round one (packed text)
// runs on rows padded to a multiple, so that a bounded set of primitives serves any length.

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

namespace {

using dnnl::memory;
using Dims = memory::dims;

memory::desc matrix(DType dtype, std::int64_t rows, std::int64_t columns, bool transposed = false) {
  const Dims strides = transposed ? Dims{1, rows} : Dims{columns, 1};
  return {Dims{rows, columns}, vendor_type(dtype), strides};
}

memory::desc any_matrix(DType dtype, std::int64_t rows, std::int64_t columns) {
  return {Dims{rows, columns}, vendor_type(dtype), memory::format_tag::any};
}

dnnl::primitive_attr attributes(bool accumulate = false) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
  return attr;
}

/// y (M,N) = x (M,K) w, where w (K,N) is stored transposed or not, in the layout oneDNN likes best.
Call make_product(const dnnl::engine& engine, DType dtype, std::int64_t m, std::int64_t n,
                  std::int64_t k, bool bias) {
  const auto x = matrix(dtype, m, k), y = matrix(dtype, m, n), w = any_matrix(dtype, k, n);
  const auto b = matrix(dtype, 1, n);
  const auto desc = bias ? dnnl::matmul::desc(x, w, b, y) : dnnl::matmul::desc(x, w, y);
  const dnnl::matmul::primitive_desc chosen(desc, attributes(), engine);
  return {dnnl::matmul(chosen), x, chosen.weights_desc(), y, b, chosen.scratchpad_desc(), {}};
}

/// dw (N,K) f32 += dy (M,N)^T x (M,K).
Call make_weight_gradient(const dnnl::engine& engine, DType dtype, std::int64_t m, std::int64_t n,
                          std::int64_t k) {
  const auto dy = matrix(dtype, n, m, true), x = matrix(dtype, m, k);
  const auto dw = matrix(DType::f32, n, k);
  const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(dy, x, dw), attributes(true),
                                            engine);
  return {dnnl::matmul(chosen), dy, x, dw, {}, chosen.scratchpad_desc(), {}};
}

std::int64_t padded_rows(std::int64_t m) {
  return m <= 32 || m % 16 == 0 ? m : (m + 31) / 32 * 32;
}

/// x itself, or a copy with zero rows added up to `rows`.
Tensor with_rows(Exec& exec, Tensor x, std::int64_t m, std::int64_t rows) {
  const std::int64_t width = x.shape[-1];
  if (rows == m) return x.reshape({m, width});
  Tensor padded = exec.empty(x.dtype, {rows, width});
  const std::size_t bytes = x.bytes();
  std::memcpy(padded.data, x.data, bytes);
  std::memset(padded.data + bytes, 0, padded.bytes() - bytes);
  return padded;
}

}  // namespace

void HostBackend::linear(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b) {
  const std::int64_t n = w.shape[0], k = w.shape[1], m = rows_of(x), rows = padded_rows(m);
  if (m == 0) return;
  const ThreadScope threads(vendor_.threads());
  const ArenaScope scope(exec.arena);
  const Call& call =
      vendor_.call({Kind::linear, static_cast<std::int64_t>(x.dtype), {rows, n, k, bool(b)}},
                   [&] { return make_product(vendor_.engine(), x.dtype, rows, n, k, bool(b)); });
  const void* weights = vendor_.weights(w.data, matrix(x.dtype, k, n, true), call.w);
  const Tensor source = with_rows(exec, x, m, rows);
  const Tensor target = rows == m ? y : exec.empty(y.dtype, {rows, n});
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, vendor_.memory(call.x, source.data)},
      {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
      {DNNL_ARG_DST, vendor_.memory(call.y, target.data)}};
  if (b) arguments.emplace(DNNL_ARG_BIAS, vendor_.memory(call.bias, b.data));
  vendor_.run(exec, call, std::move(arguments));
  if (rows != m) std::memcpy(y.data, target.data, y.bytes());
}

void HostBackend::linear_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                                  Tensor w) {
  const std::int64_t n = w.shape[0], k = w.shape[1], m = rows_of(x), rows = padded_rows(m);
  if (m == 0) return;
  const ThreadScope threads(vendor_.threads());
  const ArenaScope scope(exec.arena);
  const auto dtype = static_cast<std::int64_t>(x.dtype);
  const Tensor gradient = with_rows(exec, dy, m, rows);
  if (dx) {
    const Call& call =
        vendor_.call({Kind::linear_input_gradient, dtype, {rows, n, k}},
                     [&] { return make_product(vendor_.engine(), x.dtype, rows, k, n, false); });
    const void* weights = vendor_.weights(w.data, matrix(x.dtype, n, k), call.w);
    const Tensor target = rows == m ? dx : exec.empty(dx.dtype, {rows, k});
    vendor_.run(exec, call,
                {{DNNL_ARG_SRC, vendor_.memory(call.x, gradient.data)},
                 {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
                 {DNNL_ARG_DST, vendor_.memory(call.y, target.data)}});
    if (rows != m) std::memcpy(dx.data, target.data, dx.bytes());
  }
  if (dw) {
    const Call& call =
        vendor_.call({Kind::linear_weight_gradient, dtype, {rows, n, k}},
                     [&] { return make_weight_gradient(vendor_.engine(), x.dtype, rows, n, k); });
    const Tensor source = with_rows(exec, x, m, rows);
    vendor_.run(exec, call,
                {{DNNL_ARG_SRC, vendor_.memory(call.x, gradient.data)},
                 {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, source.data)},
                 {DNNL_ARG_DST, vendor_.memory(call.y, dw.data)}});
  }
  if (db) add_column_sums(exec, db, dy);
}

}  // namespace strata::host
