#include "kernels/cuda/matmul.hpp"

#include <algorithm>

namespace strata::cuda {

namespace {

cudaDataType_t vendor_type(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

/// Largest power of two, at most 256, that divides the number.
std::int64_t largest_divisor(std::uintptr_t number) {
  number |= 256u;
  return static_cast<std::int64_t>(number & (~number + 1));
}

std::int64_t bucketed(std::int64_t rows) {
  return rows <= row_bucket ? rows : (rows + row_bucket - 1) / row_bucket * row_bucket;
}

/// cuBLASLt's descriptors of one product. It knows column-major matrices only: a row-major d = a b
/// is its d^T = b^T a^T, so its A is our b and its B is our a.
struct Descriptors {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, d;

  Descriptors(const Product& p, const void* bias) {
    STRATA_CUDA(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (bias) {  // our a is its B
      set(CUBLASLT_MATMUL_DESC_EPILOGUE,
          p.sums_a ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
          static_cast<std::int32_t>(vendor_type(p.sums_a ? p.result : p.type)));
    }
    layout(a, p.type, p.b_transposed ? p.k : p.n, p.b_transposed ? p.n : p.k);
    layout(b, p.type, p.a_transposed ? p.m : p.k, p.a_transposed ? p.k : p.m);
    layout(d, p.result, p.n, p.m, p.d_pitch);
    if (p.batch == 1) return;
    batched(a, p.batch, p.b_step);
    batched(b, p.batch, 0);
    batched(d, p.batch, p.d_step);
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    STRATA_CUDA(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
  }
  static void layout(cublasLtMatrixLayoutOpaque_t& to, DType type, std::int64_t rows,
                     std::int64_t columns, std::int64_t pitch = 0) {
    STRATA_CUDA(cublasLtMatrixLayoutInit(&to, vendor_type(type), static_cast<std::uint64_t>(rows),
                                         static_cast<std::uint64_t>(columns),
                                         pitch == 0 ? rows : pitch));
  }
  static void batched(cublasLtMatrixLayoutOpaque_t& layout, std::int64_t batch, std::int64_t step) {
    const auto count = static_cast<std::int32_t>(batch);
    STRATA_CUDA(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                 &count, sizeof count));
    STRATA_CUDA(cublasLtMatrixLayoutSetAttribute(
        &layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step));
  }
};

struct Preference {
  cublasLtMatmulPreferenceOpaque_t opaque;

  explicit Preference(const MatmulKey& key, bool whole_sums) {
    STRATA_CUDA(cublasLtMatmulPreferenceInit(&opaque));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        static_cast<std::uint64_t>(Matmul::workspace_bytes));
    const auto alignment = [&](int i) { return static_cast<std::uint32_t>(key.extents[i]); };
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(7));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(6));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(5));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(5));
    if (whole_sums)
      set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
          static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE));
  }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    STRATA_CUDA(cublasLtMatmulPreferenceSetAttribute(&opaque, attribute, &value, sizeof value));
  }
};

/// The product whose algorithm serves every product of the same key.
Product representative(Product p) {
  if (p.fixed_rows > 0)
    p.m = p.fixed_rows;
  else if (!p.a_transposed)
    p.m = bucketed(p.m);
  else if (!p.b_transposed)
    p.k = bucketed(p.k);
  return p;
}

std::optional<cublasLtMatmulAlgo_t> choose(cublasLtHandle_t handle, const Product& product,
                                           const MatmulKey& key, const void* bias) {
  Descriptors of(representative(product), bias);
  Preference preference(key, product.fixed_rows > 0);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, &of.operation, &of.a, &of.b, &of.d, &of.d, &preference.opaque, 1, &best, &found);
  // Sums on the way are an extra that has a substitute: whatever is said against them, they are
  // not.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (product.sums_a && status != CUBLAS_STATUS_SUCCESS))
    return std::nullopt;
  STRATA_CUDA(status);
  if (found == 0) return std::nullopt;
  return best.algo;
}

}  // namespace

std::int64_t alignment_of(const void* data) {
  return largest_divisor(reinterpret_cast<std::uintptr_t>(data));
}

MatmulKey key_of(const Product& product, const void* d, const void* a, const void* b,
                 const void* bias) {
  const Product p = representative(product);
  const std::int64_t flags = (p.a_transposed ? 1 : 0) | (p.b_transposed ? 2 : 0) |
                             (p.accumulate ? 4 : 0) | (bias ? 8 : 0) |
                             (p.type == DType::bf16 ? 16 : 0) | (p.result == DType::bf16 ? 32 : 0) |
                             (p.sums_a ? 64 : 0);
  const auto of_all = [](const void* first, std::int64_t step, DType dtype) {
    const auto bytes = static_cast<std::uintptr_t>(step) * size_of(dtype);
    return largest_divisor(reinterpret_cast<std::uintptr_t>(first) | bytes);
  };
  std::int64_t d_alignment = of_all(d, p.d_step, p.result);
  if (bias) d_alignment = std::min(d_alignment, alignment_of(bias));
  return {{p.m, p.n, p.k, p.d_pitch, flags, d_alignment, alignment_of(a),
           of_all(b, p.b_step, p.type), p.fixed_rows, p.batch, p.b_step, p.d_step}};
}

std::size_t MatmulKeyHash::operator()(const MatmulKey& key) const {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over words
  for (const std::int64_t extent : key.extents)
    hash = (hash ^ static_cast<std::uint64_t>(extent)) * 0x100000001b3u;
  return hash;
}

const Matmul::Algorithm& Matmul::algorithm(const Product& product, const void* d, const void* a,
                                           const void* b, const void* bias) {
  const MatmulKey key = key_of(product, d, a, b, bias);
  auto found = algorithms_.find(key);
  if (found == algorithms_.end())
    found = algorithms_.emplace(key, choose(handle_, product, key, bias)).first;
  return found->second;
}

void Matmul::launch(Exec& exec, cudaStream_t stream, const cublasLtMatmulAlgo_t& algorithm,
                    const Product& product, void* d, const void* a, const void* b,
                    const void* bias) {
  Descriptors of(product, bias);
  const ArenaScope scope(exec.arena);
  const float one = 1, keep = product.accumulate ? 1 : 0;
  STRATA_CUDA(cublasLtMatmul(handle_, &of.operation, &one, b, &of.a, a, &of.b, &keep, d, &of.d, d,
                             &of.d, &algorithm, workspace(exec, workspace_bytes), workspace_bytes,
                             stream));
}

void Matmul::run(Exec& exec, cudaStream_t stream, const Product& product, void* d, const void* a,
                 const void* b, const void* bias) {
  const Algorithm& chosen = algorithm(product, d, a, b, bias);
  if (!chosen)
    fail(Exit::internal, "cublasLtMatmulAlgoGetHeuristic: no algorithm for ({} x {}) ({} x {}) {}",
         product.m, product.k, product.k, product.n, name_of(product.type));
  launch(exec, stream, *chosen, product, d, a, b, bias);
}

bool Matmul::run_with_sums(Exec& exec, cudaStream_t stream, Product product, void* d, const void* a,
                           const void* b, float* sums) {
  product.sums_a = true;
  const Algorithm& chosen = algorithm(product, d, a, b, sums);
  if (!chosen) return false;
  launch(exec, stream, *chosen, product, d, a, b, sums);
  return true;
}

}  // namespace strata::cuda
