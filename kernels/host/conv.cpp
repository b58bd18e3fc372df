// Convolutions: oneDNN on NHWC activations, weights and their gradients in the layouts it chooses.

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"

namespace strata::host {

namespace {

using dnnl::memory;
using Dims = memory::dims;
using Tag = memory::format_tag;

constexpr auto algorithm = dnnl::algorithm::convolution_direct;

/// The extents of one convolution, in oneDNN's order.
struct ConvShape {
  DType dtype;
  Dims x, w, y, strides, pad_begin, pad_end;
  bool bias;

  ConvShape(const Tensor& y_, const Tensor& x_, const Tensor& w_, const ops::Conv2dParams& p,
            bool bias_)
      : dtype(x_.dtype),
        x{x_.shape[0], x_.shape[3], x_.shape[1], x_.shape[2]},
        w{w_.shape[0], w_.shape[3], w_.shape[1], w_.shape[2]},
        y{y_.shape[0], y_.shape[3], y_.shape[1], y_.shape[2]},
        strides{p.stride, p.stride},
        pad_begin{p.pad_top, p.pad_left},
        pad_end{p.pad_bottom, p.pad_right},
        bias(bias_) {}

  CallKey key(Kind kind) const {
    return {kind,
            static_cast<std::int64_t>(dtype),
            {x[0], x[1], x[2], x[3], w[0], w[2], w[3], strides[0], pad_begin[0], pad_begin[1],
             pad_end[0], pad_end[1], bias}};
  }
  memory::desc x_desc() const { return {x, vendor_type(dtype), Tag::nhwc}; }
  memory::desc y_desc() const { return {y, vendor_type(dtype), Tag::nhwc}; }
  memory::desc w_any(DType as) const { return {w, vendor_type(as), Tag::any}; }
  memory::desc w_plain(DType as) const { return {w, vendor_type(as), Tag::ohwi}; }
  memory::desc bias_desc() const { return {{w[0]}, vendor_type(dtype), Tag::a}; }
};

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

dnnl::convolution_forward::primitive_desc forward_desc(const dnnl::engine& engine,
                                                       const ConvShape& s, DType weights) {
  const auto kind = dnnl::prop_kind::forward_training;
  using Desc = dnnl::convolution_forward::desc;
  const auto desc = s.bias ? Desc(kind, algorithm, s.x_desc(), s.w_any(weights), s.bias_desc(),
                                  s.y_desc(), s.strides, s.pad_begin, s.pad_end)
                           : Desc(kind, algorithm, s.x_desc(), s.w_any(weights), s.y_desc(),
                                  s.strides, s.pad_begin, s.pad_end);
  return {desc, user_scratchpad(), engine};
}

Call make_forward(const dnnl::engine& engine, const ConvShape& s) {
  const auto chosen = forward_desc(engine, s, s.dtype);
  return {dnnl::convolution_forward(chosen), s.x_desc(), chosen.weights_desc(), s.y_desc(),
          s.bias ? s.bias_desc() : memory::desc(), chosen.scratchpad_desc(), {}};
}

Call make_input_gradient(const dnnl::engine& engine, const ConvShape& s) {
  const dnnl::convolution_backward_data::desc desc(algorithm, s.x_desc(), s.w_any(s.dtype),
                                                   s.y_desc(), s.strides, s.pad_begin, s.pad_end);
  const dnnl::convolution_backward_data::primitive_desc chosen(
      desc, user_scratchpad(), engine, forward_desc(engine, s, s.dtype));
  return {dnnl::convolution_backward_data(chosen), s.x_desc(), chosen.weights_desc(), s.y_desc(),
          {}, chosen.scratchpad_desc(), {}};
}

Call make_weight_gradient(const dnnl::engine& engine, const ConvShape& s) {
  const dnnl::convolution_backward_weights::desc desc(algorithm, s.x_desc(), s.w_any(DType::f32),
                                                      s.y_desc(), s.strides, s.pad_begin,
                                                      s.pad_end);
  const dnnl::convolution_backward_weights::primitive_desc chosen(
      desc, user_scratchpad(), engine, forward_desc(engine, s, s.dtype));
  dnnl::primitive_attr accumulate;
  dnnl::post_ops sum;
  sum.append_sum(1.0f);
  accumulate.set_post_ops(sum);
  const auto layout = chosen.diff_weights_desc();
  const dnnl::reorder::primitive_desc fold(engine, layout, engine, s.w_plain(DType::f32),
                                           accumulate);
  return {dnnl::convolution_backward_weights(chosen), s.x_desc(), layout, s.y_desc(), {},
          chosen.scratchpad_desc(), dnnl::reorder(fold)};
}

}  // namespace

void HostBackend::conv2d(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b, ops::Conv2dParams p) {
  if (y.numel() == 0) return;
  const ThreadScope threads(vendor_.threads());
  const ConvShape shape(y, x, w, p, bool(b));
  const Call& call =
      vendor_.call(shape.key(Kind::conv), [&] { return make_forward(vendor_.engine(), shape); });
  const void* weights = vendor_.weights(w.data, shape.w_plain(w.dtype), call.w);
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, vendor_.memory(call.x, x.data)},
      {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
      {DNNL_ARG_DST, vendor_.memory(call.y, y.data)}};
  if (b) arguments.emplace(DNNL_ARG_BIAS, vendor_.memory(call.bias, b.data));
  vendor_.run(exec, call, std::move(arguments));
}

void HostBackend::conv2d_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                                  Tensor w, ops::Conv2dParams p) {
  if (dy.numel() == 0) return;
  const ThreadScope threads(vendor_.threads());
  const ArenaScope scope(exec.arena);
  const ConvShape shape(dy, x, w, p, false);
  if (dx) {
    const Call& call = vendor_.call(shape.key(Kind::conv_input_gradient), [&] {
      return make_input_gradient(vendor_.engine(), shape);
    });
    const void* weights = vendor_.weights(w.data, shape.w_plain(w.dtype), call.w);
    vendor_.run(exec, call,
                {{DNNL_ARG_DIFF_DST, vendor_.memory(call.y, dy.data)},
                 {DNNL_ARG_WEIGHTS, vendor_.memory(call.w, weights)},
                 {DNNL_ARG_DIFF_SRC, vendor_.memory(call.x, dx.data)}});
  }
  if (dw) {
    const Call& call = vendor_.call(shape.key(Kind::conv_weight_gradient), [&] {
      return make_weight_gradient(vendor_.engine(), shape);
    });
    const auto bytes = static_cast<std::int64_t>(call.w.get_size());
    const Tensor gradient = exec.empty(DType::u8, {bytes});
    vendor_.run(exec, call,
                {{DNNL_ARG_SRC, vendor_.memory(call.x, x.data)},
                 {DNNL_ARG_DIFF_DST, vendor_.memory(call.y, dy.data)},
                 {DNNL_ARG_DIFF_WEIGHTS, vendor_.memory(call.w, gradient.data)}});
    vendor_.run(call.fold, call.w, gradient.data, shape.w_plain(DType::f32), dw.data);
  }
  if (db) add_column_sums(exec, db, dy);
}

}  // namespace strata::host
