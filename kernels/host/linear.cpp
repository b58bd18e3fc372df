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

/// y (M,N) = x (M,K) w (K,N) with w in the layout given.
Call make_product(const dnnl::engine& engine, DType dtype, std::int64_t m, const memory::desc& w,
                  bool bias) {
  const std::int64_t k = w.dims()[0], n = w.dims()[1];
  const auto x = matrix(dtype, m, k), y = matrix(dtype, m, n), b = matrix(dtype, 1, n);
  const auto desc = bias ? dnnl::matmul::desc(x, w, b, y) : dnnl::matmul::desc(x, w, y);
  const dnnl::matmul::primitive_desc chosen(desc, attributes(), engine);
  return {dnnl::matmul(chosen), x, chosen.weights_desc(), y, b, chosen.scratchpad_desc(), {}};
}

/// dw (rows,K) f32 += dy^T x (M,K), where dy^T (rows,M) are columns of a dy (M,N).
Call make_weight_gradient(const dnnl::engine& engine, DType dtype, std::int64_t m, std::int64_t n,
                          std::int64_t k, std::int64_t rows) {
  const memory::desc dy(Dims{rows, m}, vendor_type(dtype), Dims{1, n});
  const auto x = matrix(dtype, m, k), dw = matrix(DType::f32, rows, k);
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
      vendor_.call({Kind::linear, static_cast<std::int64_t>(x.dtype), {rows, n, k, bool(b)}}, [&] {
        return make_product(vendor_.engine(), x.dtype, rows, any_matrix(x.dtype, k, n), bool(b));
      });
  const void* weights = vendor_.weights(exec, w.data, matrix(x.dtype, k, n, true), call.w);
  const Tensor source = with_rows(exec, x, m, rows);
  const Tensor target = rows == m ? y : exec.empty(y.dtype, {rows, n});
  std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, vendor_.memory(call.x, source.data)},
                                            {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
                                            {DNNL_ARG_DST, vendor_.memory(call.y, target.data)}};
  if (b) arguments.emplace(DNNL_ARG_BIAS, vendor_.memory(call.bias, b.data));
  vendor_.run(exec, call, std::move(arguments));
  if (rows != m) std::memcpy(y.data, target.data, y.bytes());
}

const memory::desc& HostBackend::packed_layout(DType dtype, std::int64_t n, std::int64_t k) {
  const CallKey key{Kind::packed_layout, static_cast<std::int64_t>(dtype), {n, k}};
  return vendor_
      .call(key,
            [&] {
              const ThreadScope one(1);
              return make_product(vendor_.engine(), dtype, ops::packed_rows,
                                  any_matrix(dtype, k, n), false);
            })
      .w;
}

const Call& HostBackend::packed_call(DType dtype, std::int64_t rows, std::int64_t n, std::int64_t k,
                                     bool bias, int threads) {
  const CallKey key{
      Kind::packed_linear, static_cast<std::int64_t>(dtype), {rows, n, k, bias, threads}};
  return vendor_.call(key, [&] {
    const memory::desc& w = packed_layout(dtype, n, k);
    const ThreadScope scope(threads);
    return make_product(vendor_.engine(), dtype, rows, w, bias);
  });
}

Buffer HostBackend::pack(Exec& exec, Tensor w) {
  const std::int64_t n = w.shape[0], k = w.shape[1];
  const ThreadScope threads(vendor_.threads());
  const memory::desc& wanted = packed_layout(w.dtype, n, k);
  const auto plain = matrix(w.dtype, k, n, true);
  const auto size = static_cast<std::int64_t>(wanted.get_size() / size_of(w.dtype));
  Buffer packed(w.dtype, {size});
  Reorder(vendor_.engine(), plain, wanted)(exec, packed.tensor().data, w.data);
  return packed;
}

void HostBackend::linear(Exec& exec, Tensor y, Tensor x, const ops::PackedWeight& w, Tensor b,
                         std::int64_t rows) {
  const std::int64_t blocks = rows_of(x) / rows;
  // Threads that each take whole blocks need not wait for one another, but each reads all weights.
  constexpr std::int64_t cached_bytes = 4 << 20;
  const bool alone = blocks >= exec.threads() &&
                     w.n * w.k * static_cast<std::int64_t>(size_of(x.dtype)) <= cached_bytes;
  const Call& call = packed_call(x.dtype, rows, w.n, w.k, bool(b), alone ? 1 : vendor_.threads());
  const std::size_t x_bytes = rows * w.k * size_of(x.dtype);
  const std::size_t y_bytes = rows * w.n * size_of(x.dtype);
  const auto arguments_of = [&](std::int64_t block) {
    Arguments arguments{{DNNL_ARG_SRC, vendor_.memory(call.x, x.data + block * x_bytes)},
                        {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, w.data.tensor().data)},
                        {DNNL_ARG_DST, vendor_.memory(call.y, y.data + block * y_bytes)}};
    if (b) arguments.emplace(DNNL_ARG_BIAS, vendor_.memory(call.bias, b.data));
    return arguments;
  };
  if (alone) {
    const ThreadScope one(1);
    for_tasks_with_scratch(exec, blocks, call.scratch_bytes(),
                           [&](std::int64_t block, std::byte* scratch) {
                             vendor_.run_alone(call, arguments_of(block), scratch);
                           });
  } else {
    const ThreadScope threads(vendor_.threads());
    for (std::int64_t block = 0; block < blocks; ++block)
      vendor_.run(exec, call, arguments_of(block));
  }
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
    const Call& call = vendor_.call({Kind::linear_input_gradient, dtype, {rows, n, k}}, [&] {
      return make_product(vendor_.engine(), x.dtype, rows, any_matrix(x.dtype, n, k), false);
    });
    const void* weights = vendor_.weights(exec, w.data, matrix(x.dtype, n, k), call.w);
    const Tensor target = rows == m ? dx : exec.empty(dx.dtype, {rows, k});
    vendor_.run(exec, call,
                {{DNNL_ARG_SRC, vendor_.memory(call.x, gradient.data)},
                 {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
                 {DNNL_ARG_DST, vendor_.memory(call.y, target.data)}});
    if (rows != m) std::memcpy(dx.data, target.data, dx.bytes());
  }
  if (dw) weight_gradient(exec, dw, gradient, with_rows(exec, x, m, rows));
  if (db) add_column_sums(exec, db, dy);
}

void HostBackend::weight_gradient(Exec& exec, Tensor dw, Tensor dy, Tensor x) {
  const std::int64_t n = dw.shape[0], k = dw.shape[1], m = x.shape[0];
  const std::int64_t slice_rows = slice_width(n), slices = (n + slice_rows - 1) / slice_rows;
  const ThreadScope alone(1);
  const auto rows_of_slice = [=](std::int64_t s) {
    return std::min(slice_rows, n - s * slice_rows);
  };
  const auto slice_call = [&](std::int64_t slice) -> const Call& {
    const std::int64_t rows = rows_of_slice(slice);
    return vendor_.call(
        {Kind::linear_weight_gradient, static_cast<std::int64_t>(x.dtype), {m, n, k, rows}},
        [&] { return make_weight_gradient(vendor_.engine(), x.dtype, m, n, k, rows); });
  };
  const Call &whole = slice_call(0), &last = slice_call(slices - 1);
  const auto pitch = static_cast<std::int64_t>(size_of(dy.dtype)) * slice_rows;
  for_tasks_with_scratch(
      exec, slices, std::max(whole.scratch_bytes(), last.scratch_bytes()),
      [&, this](std::int64_t slice, std::byte* scratch) {
        const Call& call = slice == slices - 1 ? last : whole;
        const Tensor part = dw.rows(slice * slice_rows, slice * slice_rows + rows_of_slice(slice));
        vendor_.run_alone(call,
                          {{DNNL_ARG_SRC, vendor_.memory(call.x, dy.data + slice * pitch)},
                           {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, x.data)},
                           {DNNL_ARG_DST, vendor_.memory(call.y, part.data)}},
                          scratch);
      });
}

}  // namespace strata::host
