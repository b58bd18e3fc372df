// Convolutions through cuDNN. It has engines that add a bf16 weight gradient to one in f32, but
// only for even numbers of channels, and none in f32 (9.19, on sm_80 and sm_90). Elsewhere the
// weight gradient is a product of matrices for each tap of the kernel: with x padded and dy laid on
// x's grid, tap (r,s) is dy^T x shifted by r rows and s pixels, the same memory from a later
// address.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/layout.hpp"

namespace strata::cuda {

namespace {

ConvShape shape_of(const Tensor& x, const Tensor& w, const ops::Conv2dParams& p) {
  return {.dtype = x.dtype,
          .batch = x.shape[0],
          .height = x.shape[1],
          .width = x.shape[2],
          .channels = x.shape[3],
          .outputs = w.shape[0],
          .rows = w.shape[1],
          .columns = w.shape[2],
          .stride = p.stride,
          .pad_rows = p.pad_top,
          .pad_columns = p.pad_left};
}

bool is_symmetric(const ops::Conv2dParams& p) {
  return p.pad_top == p.pad_bottom && p.pad_left == p.pad_right;
}

Shape padded(const Shape& x, const ops::Conv2dParams& p) {
  return {x[0], x[1] + p.pad_top + p.pad_bottom, x[2] + p.pad_left + p.pad_right, x[3]};
}

bool is_aligned(const Tensor& t) {
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
}

/// The tensor, or a copy of it where cuDNN can read it: weights may begin at any element.
Tensor aligned(Exec& exec, cudaStream_t stream, const Tensor& t) {
  if (!t || is_aligned(t)) return t;
  const Tensor copy = exec.empty(t.dtype, t.shape);
  STRATA_CUDA(cudaMemcpyAsync(copy.data, t.data, t.bytes(), cudaMemcpyDeviceToDevice, stream));
  return copy;
}

}  // namespace

void CudaBackend::conv2d(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b, ops::Conv2dParams p) {
  if (y.numel() == 0) return;
  const ArenaScope scope(exec.arena);
  if (!is_symmetric(p)) {
    const Tensor around = exec.empty(x.dtype, padded(x.shape, p));
    place(stream(), around, x, p.pad_top, p.pad_left, 1);
    return conv2d(exec, y, around, w, b, {p.stride, 0, 0, 0, 0});
  }
  ConvShape shape = shape_of(x, w, p);
  shape.bias = bool(b);
  const Tensor weights = aligned(exec, stream(), w), bias = aligned(exec, stream(), b);
  graphs_.conv(exec, stream(), ConvKind::forward, shape,
               {aligned(exec, stream(), x).data, y.data, weights.data, bias.data});
}

void CudaBackend::conv2d_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                                  Tensor w, ops::Conv2dParams p) {
  if (dy.numel() == 0) return;
  if (dx) input_gradient(exec, dx, dy, w, p);
  if (dw && is_symmetric(p) && is_aligned(dw) &&
      adds_weight_gradients(x.dtype, x.shape[3], w.shape[0])) {
    const ArenaScope scope(exec.arena);
    graphs_.conv(exec, stream(), ConvKind::weight_gradient, shape_of(x, w, p),
                 {aligned(exec, stream(), x).data, aligned(exec, stream(), dy).data, dw.data});
  } else if (dw) {
    weight_gradient(exec, dw, dy, x, p);
  }
  if (db) add_column_sums(exec, db, dy);
}

void CudaBackend::input_gradient(Exec& exec, Tensor dx, Tensor dy, Tensor w, ops::Conv2dParams p) {
  const ArenaScope scope(exec.arena);
  if (!is_symmetric(p)) {
    const Tensor around = exec.empty(dx.dtype, padded(dx.shape, p));
    input_gradient(exec, around, dy, w, {p.stride, 0, 0, 0, 0});
    return place(stream(), dx, around, -p.pad_top, -p.pad_left, 1);
  }
  const Tensor weights = aligned(exec, stream(), w), gradient = aligned(exec, stream(), dy);
  graphs_.conv(exec, stream(), ConvKind::input_gradient, shape_of(dx, w, p),
               {dx.data, gradient.data, weights.data});
}

void CudaBackend::weight_gradient(Exec& exec, Tensor dw, Tensor dy, Tensor x, ops::Conv2dParams p) {
  const ArenaScope scope(exec.arena);
  const Shape around = padded(x.shape, p);
  const std::int64_t outputs = dw.shape[0], rows = dw.shape[1], columns = dw.shape[2];
  const std::int64_t channels = dw.shape[3], size = static_cast<std::int64_t>(size_of(x.dtype));
  Tensor pixels = x, gradients = dy;
  if (!(around == x.shape)) {
    pixels = exec.empty(x.dtype, around);
    place(stream(), pixels, x, p.pad_top, p.pad_left, 1);
  }
  if (around[1] != dy.shape[1] || around[2] != dy.shape[2]) {
    gradients = exec.empty(dy.dtype, {around[0], around[1], around[2], outputs});
    place(stream(), gradients, dy, 0, 0, p.stride);
  }
  // Behind the last pixel that a tap reads dy's grid holds zeros only.
  const std::int64_t last_tap = (rows - 1) * around[2] + columns - 1;
  const Product tap{.m = outputs,
                    .n = channels,
                    .k = around[0] * around[1] * around[2] - last_tap,
                    .a_transposed = true,
                    .type = x.dtype,
                    .accumulate = true,
                    .d_pitch = rows * columns * channels,
                    .batch = columns,
                    .b_step = channels,
                    .d_step = channels};
  for (std::int64_t r = 0; r < rows; ++r)
    matmul_.run(exec, stream(), tap, dw.as<float>() + r * columns * channels, gradients.data,
                pixels.data + r * around[2] * channels * size);
}

}  // namespace strata::cuda
