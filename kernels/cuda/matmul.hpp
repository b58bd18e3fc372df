#pragma once
// Matrix products through cuBLASLt. Algorithms are chosen once a shape; the choice is a pure
// function of shape, alignment, library and device, so that a resumed run repeats it.

#include <array>
#include <optional>
#include <unordered_map>

#include "kernels/cuda/runtime.hpp"

namespace strata::cuda {

/// d (M,N) = a b (+ d) (+ bias (N)), all row-major.
struct Product {
  std::int64_t m, n, k;
  bool a_transposed = false;  // a lies as (K,M), otherwise as (M,K)
  bool b_transposed = false;  // b lies as (N,K), otherwise as (K,N)
  DType type = DType::f32;    // of a, b and bias
  DType result = DType::f32;
  bool accumulate = false;
  std::int64_t d_pitch = 0;  // elements from row to row of d; 0: N
  /// Products side by side: the same a, b and d each so many elements further on.
  std::int64_t batch = 1, b_step = 0, d_step = 0;
  /// > 0: one kernel whatever M, chosen for so many rows, that does not cut K into parts: the bits
  /// of a row do not depend on the rows that come with it.
  std::int64_t fixed_rows = 0;
  /// The sums over K of a's elements come with it: of a weight gradient the bias's.
  bool sums_a = false;
};

/// What the choice of an algorithm depends on.
struct MatmulKey {
  std::array<std::int64_t, 12> extents{};
  bool operator==(const MatmulKey&) const = default;
};
struct MatmulKeyHash {
  std::size_t operator()(const MatmulKey& key) const;
};

/// Extents that only count rows are rounded up to this in a key, so that packed text of any length
/// needs a bounded number of choices.
inline constexpr std::int64_t row_bucket = 64;

/// Largest power of two, at most 256, that divides the address.
std::int64_t alignment_of(const void* data);

MatmulKey key_of(const Product& product, const void* d, const void* a, const void* b,
                 const void* bias);

class Matmul {
 public:
  static constexpr std::int64_t workspace_bytes = std::int64_t{32} << 20;

  void run(Exec& exec, cudaStream_t stream, const Product& product, void* d, const void* a,
           const void* b, const void* bias = nullptr);
  /// The same with sums (M) f32 = the sums over K of a. False, and nothing done, where cuBLASLt has
  /// no such kernel for the shape.
  bool run_with_sums(Exec& exec, cudaStream_t stream, Product product, void* d, const void* a,
                     const void* b, float* sums);

 private:
  using Algorithm = std::optional<cublasLtMatmulAlgo_t>;
  /// Of the product's key; none where there is no kernel.
  const Algorithm& algorithm(const Product& product, const void* d, const void* a, const void* b,
                             const void* bias);
  void launch(Exec& exec, cudaStream_t stream, const cublasLtMatmulAlgo_t& algorithm,
              const Product& product, void* d, const void* a, const void* b, const void* bias);

  MatmulHandle handle_;
  std::unordered_map<MatmulKey, Algorithm, MatmulKeyHash> algorithms_;
};

}  // namespace strata::cuda
