// Matrix products of layers: cuBLASLt on plain weights.

#include "kernels/cuda/backend.hpp"
#include "kernels/portable/dispatch.hpp"

namespace strata::cuda {

using portable::rows_of;

namespace {

/// y (M,N) = x (M,K) w (N,K)^T.
Product forward_product(const Tensor& x, std::int64_t n, std::int64_t k) {
  return {
      .m = rows_of(x), .n = n, .k = k, .b_transposed = true, .type = x.dtype, .result = x.dtype};
}

}  // namespace

void CudaBackend::linear(Exec& exec, Tensor y, Tensor x, Tensor w, Tensor b) {
  if (y.numel() == 0) return;
  matmul_.run(exec, stream(), forward_product(x, w.shape[0], w.shape[1]), y.data, x.data, w.data,
              b.data);
}

Buffer CudaBackend::pack(Exec&, Tensor w) {
  Buffer copy(w.dtype, w.shape, device_);
  STRATA_CUDA(
      cudaMemcpyAsync(copy.tensor().data, w.data, w.bytes(), cudaMemcpyDeviceToDevice, stream()));
  return copy;
}

void CudaBackend::linear(Exec& exec, Tensor y, Tensor x, const ops::PackedWeight& w, Tensor b,
                         std::int64_t block) {
  if (y.numel() == 0) return;
  // Few rows at a time are few in all, too; many are chosen for what fills the device.
  constexpr std::int64_t many = 4096;
  Product product = forward_product(x, w.n, w.k);
  product.fixed_rows = block == ops::packed_rows ? many : block;
  matmul_.run(exec, stream(), product, y.data, x.data, w.data.tensor().data, b.data);
}

void CudaBackend::linear_backward(Exec& exec, Tensor dx, Tensor dw, Tensor db, Tensor dy, Tensor x,
                                  Tensor w) {
  const std::int64_t n = w.shape[0], k = w.shape[1], m = rows_of(x);
  if (m == 0) return;
  if (dx)
    matmul_.run(exec, stream(), {.m = m, .n = k, .k = n, .type = x.dtype, .result = x.dtype},
                dx.data, dy.data, w.data);
  const Product gradient{
      .m = n, .n = k, .k = m, .a_transposed = true, .type = x.dtype, .accumulate = true};
  if (dw && db) {
    // cuBLASLt assigns the sums that it makes on the way.
    const ArenaScope scope(exec.arena);
    const Tensor sums = exec.empty(DType::f32, {n});
    if (matmul_.run_with_sums(exec, stream(), gradient, dw.data, dy.data, x.data, sums.as<float>()))
      return accumulate(exec, db, sums);
  }
  if (dw) matmul_.run(exec, stream(), gradient, dw.data, dy.data, x.data);
  if (db) add_column_sums(exec, db, dy);
}

}  // namespace strata::cuda
